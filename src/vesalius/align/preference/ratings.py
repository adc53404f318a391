"""Answers rated good or bad in packed rows, each row beside one of the same prompts with exchanged answers.

Ethayarajh et al. 2024 (KTO), arXiv:2402.01306, section 4.1, compares a reward with how far the policy is from its
reference in general, and estimates that from answers to other prompts of the same batch. Here the answers of a row
move on by one prompt: the same prompts and the same answers, so the exchanged row fits as the row does. A row of a
single answer has nothing to exchange and adds nothing to the estimate.

Left out: telling whether two prompts of a row are the same one, whose answers then are no strangers; of N prompts that
happens to one in N.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vesalius.align.rows.answer_rows import Item, Layout, lay_out
from vesalius.align.rows.answers import AnswerBatch
from vesalius.align.rows.items import Items, batch_of, encode_items
from vesalius.align.rows.packing import PackedBatches, PackedRows
from vesalius.core.errors import UserError
from vesalius.data.preference import Rating
from vesalius.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class RatingBatch:
    """Answers, whether each is a good one (A,), and the same answers to other prompts, row by row."""

    answers: AnswerBatch
    desirable: Tensor
    exchanged: AnswerBatch

    @property
    def tokens(self) -> Tensor:
        """(B, T) what is learned from; the exchanged rows only go forward."""
        return self.answers.tokens

    @property
    def weight(self) -> int:
        return self.answers.weight

    @property
    def source(self) -> str:
        return self.answers.source

    def split(self, rows: int) -> "list[RatingBatch]":
        """The same rows in order as batches of at most `rows`, each with its own exchanged answers."""
        answers = self.answers.split(rows)
        desirable = self.desirable.split([part.weight for part in answers])
        parts = zip(answers, desirable, self.exchanged.split(rows), strict=True)
        return [RatingBatch(answers=part, desirable=good, exchanged=others) for part, good, others in parts]

    def to(self, device: torch.device | str) -> "RatingBatch":
        """The batch on another device; itself where it is there already."""
        return replace(
            self,
            answers=self.answers.to(device),
            desirable=self.desirable.to(device),
            exchanged=self.exchanged.to(device),
        )


@dataclass(frozen=True)
class EncodedRatings:
    """Ratings as items of one answer, and which of them are good (N,)."""

    items: Items
    desirable: Tensor


def encode_ratings(ratings: Iterable[Rating], tokenizer: Tokenizer, layout: Layout) -> EncodedRatings:
    """The ratings that fit into a row of the layout. UserError where none is left, or all are good or all bad."""
    ratings = list(ratings)
    asked = ((rating.name, rating.prompt, (rating.answer,)) for rating in ratings)
    items = encode_items(asked, tokenizer, layout, answers=1)
    desirable = torch.tensor([ratings[place].desirable for place in items.kept])
    if desirable.all() or not desirable.any():
        kind = "good" if desirable.all() else "bad"
        raise UserError(f"all {len(items)} answers are rated {kind}: there is nothing to prefer, give both kinds")
    return EncodedRatings(items, desirable)


class PackedRatings(PackedBatches[RatingBatch]):
    """An endless iterator of `RatingBatch`es, one epoch after another.

    UserError where the rows of the first batch have room for one answer each, so that nothing can be exchanged.
    """

    def __init__(self, ratings: EncodedRatings, layout: Layout, *, seed: int) -> None:
        self.ratings, self.layout = ratings, layout
        items = ratings.items
        fingerprint = items.spans.fingerprint(f"{layout}|{seed}")
        rows = PackedRows(items.lengths(layout), context=layout.context, seed=seed, fingerprint=fingerprint)
        super().__init__(rows, layout.rows)
        if len(items) < 2 or int(items.lengths(layout).min()) * 2 > layout.context:
            raise UserError(
                f"a row of {layout.context} tokens has room for one answer, so none can be exchanged with another "
                "prompt's: raise the context"
            )

    def batch(self, rows: list[list[int]], source: str) -> RatingBatch:
        return rating_batch(self.ratings, rows, self.layout, source=source)


def rating_batch(
    ratings: EncodedRatings, rows: Sequence[Sequence[int]], layout: Layout, *, source: str = ""
) -> RatingBatch:
    """The batch whose rows have the ratings of these numbers."""
    items = ratings.items
    exchanged = [_exchange([items[number] for number in row]) for row in rows]
    return RatingBatch(
        answers=batch_of(items, rows, layout, source=source),
        desirable=ratings.desirable[[number for row in rows for number in row]],
        exchanged=lay_out(exchanged, layout, padding=items.padding, source=source),
    )


def _exchange(row: Sequence[Item]) -> list[Item]:
    """Each prompt with the answer of the one before it, the first with that of the last."""
    if len(row) < 2:
        return []
    return [Item(item.prompt, row[place - 1].answers) for place, item in enumerate(row)]
