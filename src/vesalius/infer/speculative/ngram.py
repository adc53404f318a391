"""Prompt look-up: what followed the last few tokens where they stood before. Saxena 2023, github.com/apoorvumang/
prompt-lookup-decoding.

Costs nothing but a look into a table and is right wherever a text says again what it has said: edits, summaries, code,
answers from a document. The table has the places of every n-gram so far and grows by the new tokens only. Where several
places match, the copying goes on: the first place behind the one last copied from is taken, because an edited text
keeps the order of the old one; without one nearby, the latest place.
Left out: guesses from other sequences' texts.
"""

from bisect import bisect_left

from vesalius.infer.sequence import Sequence
from vesalius.infer.speculative.draft import EMPTY, MOST_NODES, Draft
from vesalius.infer.speculative.proposer import PerSequence

LONGEST = 4
"""Tokens that have to stand before as they do now; fewer are tried where so many don't."""

NEARBY = 64
"""How far behind the place last copied from a copy goes on: an insertion or a cut is mostly shorter."""


class Lookup:
    """Drafts from the sequence's own text."""

    needs_hidden = False

    def __init__(self, longest: int = LONGEST) -> None:
        """Looks for the last `longest` tokens, then for fewer. ValueError below 1."""
        if longest < 1:
            raise ValueError(f"longest must be at least 1 token, got {longest}")
        self._texts = PerSequence(lambda: Text(longest))

    def propose(self, sequence: Sequence, limit: int) -> Draft:
        """The chain of what followed."""
        text = self._texts.of(sequence)
        text.extend(sequence.tokens(len(text), sequence.length))
        found = text.continuation(min(limit, MOST_NODES))
        return Draft.chain(found) if found else EMPTY

    def close(self, sequence: Sequence) -> None:
        self._texts.close(sequence)


class Text:
    """Tokens, and for each n-gram of up to `longest` the places behind it.

    >>> text = Text(longest=2)
    >>> text.extend([1, 2, 3, 4, 1, 2])
    >>> text.continuation(3)
    [3, 4, 1]
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._tokens: list[int] = []
        self._places: dict[tuple[int, ...], list[int]] = {}
        self._source: int | None = None  # the place that the token after `_copied` would be copied from
        self._copied = 0

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: list[int]) -> None:
        """Adds tokens; those that are as the last continuation said move the place that copying goes on from."""
        for token in tokens:
            if self._source is not None and self._copied == len(self) and self._tokens[self._source] == token:
                self._source, self._copied = self._source + 1, self._copied + 1
            for size in range(1, min(self._longest, len(self)) + 1):
                self._places.setdefault(tuple(self._tokens[-size:]), []).append(len(self))
            self._tokens.append(token)

    def continuation(self, limit: int) -> list[int]:
        """At most `limit` tokens that followed the last ones before; [] where those never stood before.

        A place near the end is copied from beyond it: a text that repeats itself is expected to go on so.
        """
        for size in range(min(self._longest, len(self)), 0, -1):
            if places := self._places.get(tuple(self._tokens[-size:])):
                self._source, self._copied = self._choose(places), len(self)
                period = len(self) - self._source
                return [self._tokens[self._source + i % period] for i in range(limit)]
        return []

    def _choose(self, places: list[int]) -> int:
        if self._source is not None:
            at = bisect_left(places, self._source)
            if at < len(places) and places[at] - self._source <= NEARBY:
                return places[at]
        return places[-1]
