"""Preference pairs in packed rows: the batch source of every method that compares two answers.

Answers 2k and 2k + 1 of a batch are the chosen and the rejected one of pair k, which a row always has both of, so a
micro-batch keeps pairs together. A pair that is longer than a row, or whose answers are the same tokens, teaches half
of something or nothing: it is dropped, counted and named.
"""

from collections.abc import Iterable

from vesalius.align.rows.answer_rows import Layout
from vesalius.align.rows.items import Items, PackedItems, encode_items
from vesalius.data.preference import Pair
from vesalius.tokenizers.tokenizer import Tokenizer

PackedPairs = PackedItems
"""An endless iterator of batches of pairs."""


def encode_pairs(pairs: Iterable[Pair], tokenizer: Tokenizer, layout: Layout) -> Items:
    """The pairs that can be used, as items of two answers. UserError where none is left."""
    asked = ((pair.name, pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs)
    return encode_items(asked, tokenizer, layout, answers=2)
