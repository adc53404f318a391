"""What a method found out about the model that it made, in one form: a heading, a sentence, drawings, a table.

The template draws any finding; a method that has something to tell adds a function here that reads its part of
evals.json and gives None where there is nothing.
"""

from collections.abc import Callable
from functools import partial

from vesalius.train.report.distillation import student
from vesalius.train.report.finding import Finding
from vesalius.train.report.made import made, solved
from vesalius.train.report.policy import compared, criticised
from vesalius.train.report.preferences import pairs_preferred, ratings_preferred
from vesalius.train.report.reading import Run
from vesalius.train.report.scoring import calibration, pairs, process, scores
from vesalius.train.report.side_effects import alignment_tax, diversity, length_bias, overoptimisation
from vesalius.train.report.tuning import answers, learned_from, left_out

FINDINGS: tuple[Callable[[Run], Finding | None], ...] = (
    made,
    solved,
    answers,
    student,
    pairs_preferred,
    ratings_preferred,
    compared,
    criticised,
    pairs,
    scores,
    process,
    calibration,
    *(partial(length_bias, stage=stage) for stage in ("reward", "dpo")),
    *(partial(overoptimisation, stage=stage) for stage in ("reward", "grpo", "ppo")),
    *(partial(diversity, stage=stage) for stage in ("grpo", "ppo")),
    alignment_tax,
    learned_from,
    left_out,
)
"""In the order of the page."""


def findings(run: Run) -> list[Finding]:
    """All that the run has something for."""
    return [found for find in FINDINGS if (found := find(run)) is not None]
