"""What the stages that train a scoring model have in common: a head on the model's decoder, trained, measured, saved.

The decoder is the model's own, so after such a stage the model scores and no longer writes: `model/` holds the scoring
model (align/scoring/files), and nothing may follow that wants to write.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from vesalius.align.rows.answer_rows import Layout, can_share_prompts
from vesalius.align.scoring.batch import ScoredBatch
from vesalius.align.scoring.files import save_scoring_model
from vesalius.align.scoring.items import Item
from vesalius.align.scoring.model import ScoringModel
from vesalius.align.scoring.rows import PackedScores, ScoredItems, collect, each_once
from vesalius.pipeline.left_out import tell_left_out
from vesalius.pipeline.life import Advance, Life
from vesalius.pipeline.training import QUICK_VALIDATION_TOKENS, autocast_of, mean_metrics, train_module
from vesalius.train.callbacks import Validation
from vesalius.train.config import TrainConfig
from vesalius.train.objectives import Objective


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """One way to score: how many numbers a token has, how many answers an item has, and what is minimised."""

    stage: str
    labels: int
    answers: int
    objective: Objective


@dataclass(frozen=True)
class HeldOut:
    """What the trained model gives to the answers that were held out: the number or logits at each token that has a
    target (N, C), the targets (N,), and the items that they belong to, in the same order."""

    found: Tensor
    wanted: Tensor
    items: ScoredItems
    order: list[int]


def train_scoring(
    life: Life, section: TrainConfig, scoring: Scoring, train: Iterable[Item], held_out: Iterable[Item]
) -> HeldOut | None:
    """Trains and saves a scoring model -> what it makes of the held-out items, None where there are none."""
    model, tokenizer = life.made
    shared = scoring.answers > 1 and can_share_prompts(model.config)
    layout = Layout(rows=section.batch_rows, context=section.context, shared=shared, ends=True)
    items = collect(train, tokenizer, layout, answers=scoring.answers)
    tell_left_out(life, scoring.stage, len(items), items.items.dropped)
    others = list(held_out)
    quick = collect(others, tokenizer, layout, answers=scoring.answers) if others else None
    head = ScoringModel.on(model, scoring.labels, seed=section.seed)
    watcher = Validation(section.validate_every, _Quick(life, section, scoring, quick, layout))
    train_module(
        life, scoring.stage, section, head, PackedScores(items, layout, seed=section.seed), scoring.objective, [watcher]
    )
    save_scoring_model(life.run.model, head.eval(), tokenizer)
    if quick is None:
        return None
    with life.timed("eval"), life.display.stage("scoring held-out answers", len(quick)) as advance:
        return _score_all(head, quick, layout, autocast_of(life, section), advance)


@dataclass(frozen=True)
class _Quick:
    """Loss and metrics on the same few batches of held-out answers each time; nothing where there are none."""

    life: Life
    section: TrainConfig
    scoring: Scoring
    items: ScoredItems | None
    layout: Layout

    def __call__(self, model: nn.Module) -> Mapping[str, float]:
        return mean_metrics(model, self.scoring.objective, self._batches(), autocast_of(self.life, self.section))

    def _batches(self) -> Iterator[ScoredBatch]:
        if self.items is None:
            return iter(())
        source = PackedScores(self.items, self.layout, seed=self.section.seed)
        return islice(source, max(1, QUICK_VALIDATION_TOKENS // self.section.batch_tokens))


@torch.inference_mode()
def _score_all(
    model: ScoringModel, items: ScoredItems, layout: Layout, dtype: torch.dtype | None, advance: Advance
) -> HeldOut:
    found: list[Tensor] = []
    wanted: list[Tensor] = []
    order: list[int] = []
    device = model.score.weight.device
    for numbers, batch in each_once(items, layout):
        batch = batch.to(device)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            found.append(model.at(batch.tokens, batch.positions, batch.scored).cpu())
        wanted.append(batch.wanted.cpu())
        order += numbers
        advance(len(order))
    return HeldOut(torch.cat(found), torch.cat(wanted), items, order)
