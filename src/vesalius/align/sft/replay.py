"""Replay: while a model learns from conversations it goes on reading some of what it was pretrained on, and forgets
less. Ibrahim et al. 2024, arXiv:2403.08763, section 3.3: a few percent of the tokens go a long way.

A document becomes pieces of at most a row, the first with the boundary before it, and everything in a piece is learned.
Pieces are one more source of rows (mixing.py), whose share of the tokens is what the recipe says; the conversations
keep their shares among themselves. Documents are drawn by hashes from the beginning of the text, whatever its order.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from vesalius.align.rows.encoding import Encoded
from vesalius.align.rows.spans import Spans, SpansWriter
from vesalius.core.errors import UserError
from vesalius.data.document import Document
from vesalius.data.split import shuffled
from vesalius.tokenizers.tokenizer import Tokenizer

NAME = "replay"
"""What the source is called."""

DRAWN_FROM, MOST = 2**26, 2**22
"""Characters of text that documents are drawn from, and characters of those that are drawn."""


def encode_replay(documents: Iterable[Document], tokenizer: Tokenizer, context: int) -> Encoded:
    """Text as items of a source "replay". UserError where the tokenizer has no token for a document's boundary."""
    boundary = tokenizer.document_boundary
    if boundary is None:
        raise UserError(
            "replay needs a token for the boundary of documents, and the tokenizer has none: set sft.replay = 0"
        )
    writer, names = SpansWriter(tokenizer.vocab_size), list[str]()
    drawn = list(_first(shuffled(_first(documents, DRAWN_FROM)), MOST))
    for document, ids in zip(drawn, tokenizer.encode_batch([document.text for document in drawn]), strict=True):
        whole = [boundary, *ids]
        for start in range(0, len(ids), context):  # not of whole: a piece of one token teaches nothing
            piece = whole[start : start + context]
            writer.add(piece, [True] * len(piece))
            names.append(document.name)
    spans, origins = writer.done(), [NAME] * len(names)
    return Encoded(spans=spans, names=names, origins=origins, dropped={}, padding=boundary)


def with_replay(
    encoded: Encoded, replay: Encoded, share: float, shares: Mapping[str, float] | None
) -> tuple[Encoded, dict[str, float]]:
    """Conversations and text together, and the weight of every source: `share` of the tokens is text. `shares` are the
    weights of the conversations' sources; None: by their tokens.
    """
    if shares is None:
        lengths = encoded.spans.lengths
        names = list(dict.fromkeys(encoded.origins))
        shares = dict(zip(names, np.bincount(encoded.sources(names), lengths).tolist(), strict=True))
    total = sum(shares.values())
    weights = {name: (1 - share) * weight / total for name, weight in shares.items()}
    both = replace(
        encoded,
        spans=joined(encoded.spans, replay.spans),
        names=encoded.names + replay.names,
        origins=encoded.origins + replay.origins,
    )
    return both, weights | {NAME: share}


def joined(first: Spans, second: Spans) -> Spans:
    """The sequences of both, those of the first before those of the second."""
    return Spans(
        np.concatenate((first.ids, second.ids)),
        np.concatenate((first.marks, second.marks)),
        np.concatenate((first.starts, first.starts[-1] + second.starts[1:])),
    )


def _first(documents: Iterable[Document], characters: int) -> Iterator[Document]:
    """The documents until that many characters are reached, at least one."""
    read = 0
    for document in documents:
        yield document
        read += len(document.text)
        if read >= characters:
            return
