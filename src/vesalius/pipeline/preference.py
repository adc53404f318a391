"""The stages that learn from preferences: [dpo] from pairs, [kto] from single rated answers.

Both measure what was held out before and after: how often and how clearly the better answer is preferred, and at the
end how far the model has gone from its reference, by answers of its own.
"""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from torch import Tensor

from vesalius.align.preference.kto import KTO
from vesalius.align.preference.objective import Preference
from vesalius.align.preference.pairs import PackedPairs, encode_pairs
from vesalius.align.preference.ratings import EncodedRatings, PackedRatings, encode_ratings, rating_batch
from vesalius.align.preference.sampled_kl import sampled_kl
from vesalius.align.reference import Reference, logprobs_of, precompute, reference_of
from vesalius.align.rows.answer_rows import Layout, can_share_prompts
from vesalius.align.rows.items import Items, batch_of, each_once
from vesalius.data.preferences import read_pairs, read_ratings
from vesalius.data.split import split_items, spread
from vesalius.evals.length_bias import length_bias
from vesalius.hub.directory import save_model
from vesalius.pipeline.left_out import tell_left_out
from vesalius.pipeline.life import Life
from vesalius.pipeline.recipe_sections.preference import DpoSection, PreferenceSection
from vesalius.pipeline.training import (
    autocast_of,
    mean_metrics,
    throughput,
    train_module,
)
from vesalius.train.callbacks import Validation
from vesalius.train.objectives import Objective
from vesalius.train.training import BatchSource, TrainingBatch

QUICK_TOKENS = 8192
"""What the curve of a run is measured on; the stage's result is measured on all that is held out."""


def dpo(life: Life) -> None:
    """Learns from pairs, if the recipe has [dpo]; pairs of some prompts are held out."""
    section, (model, tokenizer) = life.recipe.dpo, life.made
    if section is None:
        return
    data, layout = life.recipe.data, _layout(life, section)
    train, held_out = split_items(read_pairs([*data.pairs, *life.made_pairs]), data.validation_fraction, "pairs")
    pairs = encode_pairs(train, tokenizer, layout)
    tell_left_out(life, "dpo", len(pairs), pairs.dropped)
    others = encode_pairs(spread(held_out, section.measured), tokenizer, layout) if held_out else None

    reference = None if section.reference == "file" else reference_of(model)
    objective = Preference(
        loss=section.loss, numbers=section.numbers, sft_weight=section.sft_weight, reference=reference
    )
    batches = PackedPairs(pairs, layout, seed=section.seed, reference=_table(life, section, pairs, layout))
    measured: list[TrainingBatch] = []
    table: Tensor | None = None
    if others is not None and "length_bias" not in life.results("dpo"):
        table = logprobs_of(model, others, range(len(others)), layout, autocast_of(life, section))
        rows_once = each_once(others, range(len(others)), layout)
        measured = [batch_of(others, rows, layout, reference=table) for rows in rows_once]
    facts = {"loss": section.loss, "beta": section.beta, "pairs": len(pairs), "held_out": len(others or ())}
    _learn(life, "dpo", section, batches, objective, measured, facts)
    if others is not None and table is not None:
        after = logprobs_of(model, others, range(len(others)), layout, autocast_of(life, section))
        life.add("dpo", length_bias=asdict(length_bias(section.beta * (after - table), others.answer_lengths)))
    _measure_kl(life, "dpo", section, reference, others, layout)


def kto(life: Life) -> None:
    """Learns from rated answers, if the recipe has [kto]; answers to some prompts are held out."""
    section, (model, tokenizer) = life.recipe.kto, life.made
    if section is None:
        return
    data, layout = life.recipe.data, _layout(life, section)
    train, held_out = split_items(
        read_ratings([*data.ratings, *life.made_pairs]), data.validation_fraction, "rated answers"
    )
    ratings = encode_ratings(train, tokenizer, layout)
    tell_left_out(life, "kto", len(ratings.items), ratings.items.dropped)
    others = encode_ratings(spread(held_out, section.measured), tokenizer, layout) if held_out else None

    reference = reference_of(model)
    objective = KTO(
        reference=reference,
        beta=section.beta,
        desirable_weight=section.desirable_weight,
        undesirable_weight=section.undesirable_weight,
        loss=section.loss,
    )
    batches = PackedRatings(ratings, layout, seed=section.seed)
    desirable = int(ratings.desirable.sum())
    facts = {
        "loss": section.loss,
        "beta": section.beta,
        "desirable": desirable,
        "undesirable": len(ratings.items) - desirable,
        "held_out": len(others.items) if others else 0,
    }
    _learn(life, "kto", section, batches, objective, _rating_batches(others, layout), facts)
    _measure_kl(life, "kto", section, reference, others.items if others else None, layout)


def _layout(life: Life, section: PreferenceSection) -> Layout:
    shared = can_share_prompts(life.made[0].config)
    return Layout(rows=section.batch_rows, context=section.context, shared=shared)


def _table(life: Life, section: DpoSection, pairs: Items, layout: Layout) -> Any:
    """The reference's log-probabilities of all pairs, where they are to come from a file."""
    if section.reference != "file":
        return None
    path, dtype = life.run.data / "reference.safetensors", autocast_of(life, section)
    with life.timed("reference"), life.display.stage("reading pairs with the reference", len(pairs)) as advance:
        return precompute(life.made[0], pairs, path, layout, dtype=dtype, on_progress=advance)


def _rating_batches(ratings: EncodedRatings | None, layout: Layout) -> list[TrainingBatch]:
    if ratings is None:
        return []
    numbers = range(len(ratings.items))
    return [rating_batch(ratings, rows, layout) for rows in each_once(ratings.items, numbers, layout)]


def _learn(
    life: Life,
    stage: str,
    section: PreferenceSection,
    batches: BatchSource,
    objective: Objective,
    measured: Sequence[TrainingBatch],
    facts: dict[str, Any],
) -> None:
    """Trains and saves the model, measured on held-out batches before and after, and on the first few in between."""
    model, tokenizer = life.made
    dtype = autocast_of(life, section)

    def measure(batches: Sequence[TrainingBatch]) -> dict[str, float]:
        return mean_metrics(model.eval(), objective, batches, dtype)

    if "before" not in life.results(stage):
        with life.timed("eval"), life.display.stage("measuring held-out preferences"):
            life.add(stage, **facts, before=measure(measured))
    quick = list(islice(measured, max(1, QUICK_TOKENS // section.batch_tokens)))
    watchers = [Validation(section.validate_every, lambda _: measure(quick)), throughput(life, model, section)]
    train_module(life, stage, section, model, batches, objective, watchers)
    save_model(life.run.model, model.eval(), tokenizer)
    if "after" not in life.results(stage):
        with life.timed("eval"), life.display.stage("measuring held-out preferences"):
            life.add(stage, after=measure(measured))


def _measure_kl(
    life: Life,
    stage: str,
    section: PreferenceSection,
    reference: Reference | None,
    held_out: Items | None,
    layout: Layout,
) -> None:
    """The KL to the reference, where that is at hand and prompts were held out."""
    if reference is None or held_out is None or not section.sampled or "kl" in life.results(stage):
        return
    model, tokenizer = life.made
    prompts = [held_out[number].prompt for number in spread(range(len(held_out)), section.sampled)]
    with life.timed("eval"), life.display.stage("answering held-out prompts"):
        kl = sampled_kl(
            model, reference, tokenizer, prompts, layout, max_tokens=section.sampled_tokens, seed=section.seed
        )
        life.add(stage, kl=kl)
