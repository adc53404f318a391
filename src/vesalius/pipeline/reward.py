"""The stage that turns a model into a reward model, by pairs or by scores; what it is worth is in evals.json."""

from typing import Any

from vesalius.align.scoring.items import pair_items, score_items
from vesalius.align.scoring.model import REWARD
from vesalius.align.scoring.reward import BradleyTerry, Regression
from vesalius.data.preferences import read_pairs, read_scores
from vesalius.data.split import split_items
from vesalius.evals.reward_quality import pair_quality, score_quality
from vesalius.pipeline.best_of import choose, draw
from vesalius.pipeline.life import Life
from vesalius.pipeline.recipe_sections.scoring import RewardSection
from vesalius.pipeline.scoring import HeldOut, Scoring, train_scoring


def reward(life: Life) -> None:
    """Trains a reward model, if the recipe has [reward]; answers to some prompts are held out to measure it."""
    section = life.recipe.reward
    if section is None or life.results("reward"):
        return
    drawn = draw(life, section)
    results = {"pairs": _by_pairs, "scores": _by_scores}[section.learn](life, section)
    if drawn is not None:
        results["overoptimisation"] = choose(life, drawn)
    life.run.add_evals(reward={"learn": section.learn} | results)


def _by_pairs(life: Life, section: RewardSection) -> dict[str, Any]:
    data, tokenizer = life.recipe.data, life.made[1]
    train, held_out = split_items(read_pairs(data.pairs), data.validation_fraction, "pairs")
    scoring = Scoring(stage="reward", labels=REWARD, answers=2, objective=BradleyTerry(centring=section.centring))
    found = train_scoring(life, section, scoring, pair_items(train, tokenizer), pair_items(held_out, tokenizer))
    return {} if found is None else pair_quality(found.found.view(-1, 2), _lengths(found))


def _by_scores(life: Life, section: RewardSection) -> dict[str, Any]:
    data, tokenizer = life.recipe.data, life.made[1]
    train, held_out = split_items(read_scores(data.scores), data.validation_fraction, "scored answers")
    scoring = Scoring(stage="reward", labels=REWARD, answers=1, objective=Regression())
    found = train_scoring(life, section, scoring, score_items(train, tokenizer), score_items(held_out, tokenizer))
    return {} if found is None else score_quality(found.found[:, 0], found.wanted)


def _lengths(found: HeldOut) -> Any:
    return found.items.items.answer_lengths[found.order]
