"""Stages in which the model makes what it is trained on next: conversations for [sft], pairs for what prefers.

Each leaves two files in made/: NAME.all.jsonl, a row for every prompt or task with all that was sampled and why it was
kept or dropped, and NAME.jsonl, the rows that are trained on. The first grows as the work is done and is gone on with
after a kill; the second appears when it is complete.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from vesalius.align.making.constitution import Constitution, load_constitution
from vesalius.align.making.journal import Named, Row, work_through, write_kept
from vesalius.align.making.principle_pairs import PrinciplePairs
from vesalius.align.making.rejection import BestOfN, Star
from vesalius.align.making.revisions import Revisions
from vesalius.align.making.self_rewarding import SelfRewarding
from vesalius.align.rewards.compose import build_reward, judge_many
from vesalius.align.writer import Question, Writer
from vesalius.core.errors import VesaliusError
from vesalius.data.prompts import Prompt, prompt_of, read_prompts
from vesalius.data.split import is_validation
from vesalius.data.task import Task
from vesalius.data.tasks import read_tasks
from vesalius.hub.open import open_model
from vesalius.pipeline.life import Life
from vesalius.pipeline.recipe_sections.making import CheckedSection, ConstitutionSection, MakingSection

N = TypeVar("N", bound=Named)
Work = Callable[[Sequence[N]], list[Row]]


def make_conversations(life: Life) -> None:
    """What [best_of_n], [star] and [constitution] make for [sft]."""
    recipe = life.recipe
    if recipe.best_of_n is not None or recipe.star is not None:
        _check(life, "before")
    if (best := recipe.best_of_n) is not None:
        reward = build_reward({"verified": 1.0}, where=best.where, partial=True)
        work = BestOfN(
            writer=_writer(life, best), reward=reward, model=_name(life), samples=best.samples, least=best.least,
            temperature=best.temperature, seed=best.seed,
        )  # fmt: skip
        life.made_conversations.append(_made(life, "best_of_n", best, _tasks(life, best), work))
    if (star := recipe.star) is not None:
        reward = build_reward({"verified": 1.0}, where=star.where)
        reasons = Star(
            writer=_writer(life, star), reward=reward, model=_name(life), rationalise=star.rationalise,
            temperature=star.temperature, seed=star.seed,
        )  # fmt: skip
        life.made_conversations.append(_made(life, "star", star, _tasks(life, star), reasons))
    if (section := recipe.constitution) is not None:
        constitution = load_constitution(section.file)
        revisions = Revisions(
            writer=_writer(life, section), model=_name(life), constitution=constitution, rounds=section.rounds,
            temperature=section.temperature, seed=section.seed,
        )  # fmt: skip
        prompts = _prompts(life, section, constitution)
        life.made_conversations.append(_made(life, "revisions", section, prompts, revisions))


def make_pairs(life: Life) -> None:
    """What [constitution] and [self_rewarding] make for a stage that learns from pairs, with the model as it is now."""
    recipe, model = life.recipe, f"{_name(life)} as this run has tuned it" if life.recipe.sft else _name(life)
    if (section := recipe.constitution) is not None and section.pairs:
        constitution, writer = load_constitution(section.file), _writer(life, section)
        pairs = PrinciplePairs(
            writer=writer, judge=_judge(section, writer), model=model, judge_name=section.judge or model,
            constitution=constitution, least=section.least, temperature=1.0, seed=section.seed,
        )  # fmt: skip
        life.made_pairs.append(_made(life, "principle_pairs", section, _prompts(life, section, constitution), pairs))
    if (own := recipe.self_rewarding) is not None:
        marked = SelfRewarding(
            writer=_writer(life, own), model=model, samples=own.samples, least=own.least, temperature=own.temperature,
            seed=own.seed,
        )  # fmt: skip
        prompts = list(islice(read_prompts(life.recipe.data.prompts), own.limit))
        life.made_pairs.append(_made(life, "self_rewarding", own, prompts, marked))


def check_tasks(life: Life) -> None:
    """How many held-out tasks the tuned model gets right, where the recipe made its data from tasks."""
    if life.recipe.sft and (life.recipe.best_of_n or life.recipe.star):
        _check(life, "after")


def _made(life: Life, name: str, section: MakingSection, units: Sequence[N], work: Work[N]) -> str:
    """Does the work that is left -> the file of what is kept. VesaliusError where that is nothing."""
    kept: Path = life.run.made / f"{name}.jsonl"
    if not kept.exists():
        with life.timed(name), life.display.stage(f"making {name.replace('_', ' ')}", len(units)) as advance:
            journal = life.run.made / f"{name}.all.jsonl"
            rows = work_through(journal, units, work, together=section.together, advance=advance)
        dropped = Counter(row["dropped"] for row in rows if not row["kept"])
        life.add("made", **{name: {"rows": len(rows), "kept": len(rows) - dropped.total(), "dropped": dict(dropped)}})
        if dropped.total() == len(rows):
            raise VesaliusError(
                f"none of {len(rows)} rows of {name} is of use ({', '.join(dropped)}), see {journal}: give another "
                "model, easier prompts, more max_tokens, or a lower least"
            )
        write_kept(kept, rows)
    return str(kept)


def _check(life: Life, when: str) -> None:
    """The share of held-out tasks that the likeliest answer solves, once."""
    section = life.recipe.best_of_n or life.recipe.star
    assert section is not None, "the stages see to it"
    tasks = list(islice(_read_tasks(life, held_out=True), section.checked))
    if not tasks or when in life.results("verified"):
        return
    reward = build_reward({"verified": 1.0}, where=section.where)
    with life.timed("eval"), life.display.stage("solving held-out tasks"):
        questions = [Question(task.messages, section.seed) for task in tasks]
        answers = _writer(life, section).write(questions, temperature=0.0)
        verdicts = judge_many(reward, tasks, [answer.text if answer.ended else "" for answer in answers])
    solved = sum(float(verdict) for verdict in verdicts)
    life.add("verified", **{when: solved / len(tasks)}, tasks=len(tasks))


def _writer(life: Life, section: MakingSection) -> Writer:
    return Writer(*life.made, max_tokens=section.max_tokens)


def _judge(section: ConstitutionSection, writer: Writer) -> Writer:
    return writer if section.judge is None else Writer(*open_model(section.judge), max_tokens=1)


def _name(life: Life) -> str:
    return life.recipe.model.start or "the model of this run"


def _tasks(life: Life, section: CheckedSection) -> list[Task]:
    return list(islice(_read_tasks(life, held_out=False), section.limit))


def _read_tasks(life: Life, *, held_out: bool) -> Iterable[Task]:
    data = life.recipe.data
    return (
        task for task in read_tasks(data.tasks) if is_validation(task.split_key, data.validation_fraction) == held_out
    )


def _prompts(life: Life, section: ConstitutionSection, constitution: Constitution) -> list[Prompt]:
    """The recipe's prompts, or those that the constitution comes with. VesaliusError where neither has any."""
    specs = life.recipe.data.prompts
    own = (prompt_of(text, f"constitution prompt {number}") for number, text in enumerate(constitution.prompts, 1))
    prompts = list(islice(read_prompts(specs) if specs else own, section.limit))
    if not prompts:
        raise VesaliusError("there are no prompts: set data.prompts, or give the constitution some")
    return prompts
