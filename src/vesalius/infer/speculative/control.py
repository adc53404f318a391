"""How much to draft, and whether at all: measured while it runs, decided by the closed form.

For each sequence how often a drafted token stands (α; older evidence fades, texts change), for each number of sequences
in a step how long a plain step takes, and for each length of draft what a drafted token adds to it (c). The length is
the one whose predicted speed-up is the highest; where none is above 1, nothing is drafted for a while, which doubles
each time that another look says the same.
"""

from collections import deque
from dataclasses import dataclass, field
from statistics import median

from vesalius.infer.speculative.closed_form import speedup

FADE = 0.96
"""What evidence weighs after one more drafted token: the last 25 or so decide."""

PRIOR_KEPT, PRIOR_TRIED = 1.4, 2.0
"""Evidence before there is any: worth trying, and soon outweighed. A later sequence begins with what others showed."""

PRIOR_COST = 0.05
"""A drafted token's cost before it was measured: low, so that it is."""

WINDOW = 15
"""Times that a median is taken over: a machine that does other things too makes single ones worthless."""

TIMED = 3
"""Plain steps that are timed before anything is drafted."""

REFRESH = 64
"""Steps after which a plain one is timed again: a step grows with its text."""

FIRST_PAUSE, LONGEST_PAUSE = 16, 256
"""Tokens without a draft where it does not pay."""


@dataclass
class Evidence:
    """Of one sequence: tokens that stood and that were tried, fading; and the pause that it is in."""

    kept: float = PRIOR_KEPT
    tried: float = PRIOR_TRIED
    pause: int = FIRST_PAUSE
    left: int = 0
    shape: float = 1.0  # depth of the last draft, for each of its tokens: 1 for a chain

    @property
    def alpha(self) -> float:
        """α, as far as it is known."""
        return self.kept / self.tried

    def add(self, kept: int, depth: int, nodes: int) -> None:
        """A draft of so many tokens, so deep, of which the first `kept` on one path stood."""
        tried = kept + (kept < depth)  # what lies behind the first wrong one was never tried
        self.kept = self.kept * FADE**tried + kept
        self.tried = self.tried * FADE**tried + tried
        self.shape = depth / nodes


@dataclass
class Costs:
    """How long steps take: plain ones by their number of sequences, and what drafts add."""

    plain: dict[int, deque[float]] = field(default_factory=dict)
    ratios: dict[int, deque[float]] = field(default_factory=dict)
    since: int = 0

    def add(self, sequences: int, drafted: int, seconds: float) -> None:
        """A step that wrote for so many sequences and read so many drafted tokens."""
        if not drafted:
            self.plain.setdefault(sequences, deque(maxlen=WINDOW)).append(seconds)
            self.since = 0
            return
        self.since += 1
        base = self.plain_seconds(sequences)
        if base is not None:
            gamma = drafted / sequences
            ratio = (seconds / base - 1) / gamma
            self.ratios.setdefault(max(1, round(gamma)), deque(maxlen=WINDOW)).append(ratio)

    def plain_seconds(self, sequences: int) -> float | None:
        """Of a step without drafts; None before enough were timed."""
        times = self.plain.get(sequences, ())
        return median(times) if len(times) >= TIMED else None

    def ratio(self, gamma: int) -> float:
        """c for drafts of this length, or of the nearest one measured. Never below 0: that is noise."""
        if not self.ratios:
            return PRIOR_COST
        nearest = min(self.ratios, key=lambda known: abs(known - gamma))
        return max(0.0, median(self.ratios[nearest]))

    def wants_plain(self, sequences: int) -> bool:
        """Whether the next step should be a plain one, to time it."""
        return self.plain_seconds(sequences) is None or self.since >= REFRESH


def choose(evidence: Evidence, costs: Costs, limit: int) -> int:
    """How many tokens to draft for a sequence now, at most `limit`; 0 where it does not pay."""
    if limit < 1:
        return 0
    if evidence.left:
        evidence.left -= 1
        if evidence.left:
            return 0
        return limit  # another look
    best = max(range(1, limit + 1), key=lambda gamma: predicted(evidence, costs, gamma))
    if predicted(evidence, costs, best) > 1:
        evidence.pause = FIRST_PAUSE
        return best
    evidence.left = evidence.pause
    evidence.pause = min(2 * evidence.pause, LONGEST_PAUSE)
    return 0


def predicted(evidence: Evidence, costs: Costs, gamma: int) -> float:
    """The closed form with what is known by now."""
    depth = max(1.0, gamma * evidence.shape)
    return speedup(evidence.alpha, gamma, costs.ratio(gamma), depth)
