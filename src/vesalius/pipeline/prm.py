"""The stage that turns a model into a process reward model; what it is worth is in evals.json."""

from itertools import islice

from vesalius.align.scoring.items import step_items
from vesalius.align.scoring.model import STEPS
from vesalius.align.scoring.process_reward import StepLabels
from vesalius.data.solutions import read_solutions
from vesalius.data.split import split_items
from vesalius.evals.reward_quality import step_quality
from vesalius.pipeline.life import Life
from vesalius.pipeline.scoring import HeldOut, Scoring, train_scoring


def prm(life: Life) -> None:
    """Trains a process reward model, if the recipe has [prm]; solutions of some prompts are held out to measure it."""
    section, (_, tokenizer) = life.recipe.prm, life.made
    if section is None or life.results("prm"):
        return
    data = life.recipe.data
    train, held_out = (
        step_items(side, tokenizer, section.separator)
        for side in split_items(read_solutions(data.steps), data.validation_fraction, "solutions")
    )
    scoring = Scoring(stage="prm", labels=STEPS, answers=1, objective=StepLabels())
    found = train_scoring(life, section, scoring, train, held_out)
    results = {} if found is None else step_quality(*_by_solution(found))
    life.run.add_evals(prm={"separator": section.separator} | results)


def _by_solution(found: HeldOut) -> tuple[list[list[float]], list[list[bool]]]:
    """Probabilities and labels of the steps of each solution."""
    probabilities, labels = iter(found.found.softmax(-1)[:, 1].tolist()), iter((found.wanted > 0).tolist())
    counts = [int(marks.sum()) for marks in (found.items.items.spans[2 * number + 1][1] for number in found.order)]
    return [list(islice(probabilities, count)) for count in counts], [list(islice(labels, count)) for count in counts]
