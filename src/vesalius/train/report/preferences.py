"""Findings about models that learned from preferences: whom they prefer now, by how much, and how far they went."""

from collections.abc import Sequence

from vesalius.train.report import formats
from vesalius.train.report.finding import Finding, Plot
from vesalius.train.report.plots import Curve, draw_curves
from vesalius.train.report.reading import Record, Run, Stage, finite, number
from vesalius.train.report.series import thin

ROWS = {
    "accuracy": ("Accuracy of the rewards", formats.percent),
    "likelier": ("The better answer is the likelier one", formats.percent),
    "margin": ("Margin, better minus worse", formats.significant),
    "reward_chosen": ("Reward of the better answer", formats.significant),
    "reward_rejected": ("Reward of the worse answer", formats.significant),
    "logp_chosen": ("Log-probability of the better answer, nats", formats.significant),
    "logp_rejected": ("Log-probability of the worse answer, nats", formats.significant),
}
POINTS = 60
"""Of a curve that every step has a point of."""


def pairs_preferred(run: Run) -> Finding | None:
    """A model that learned from pairs, on pairs that were held out."""
    return _preferred(run, "dpo", "pairs", "prefers the better answer more than its reference does in")


def ratings_preferred(run: Run) -> Finding | None:
    """A model that learned from rated answers, on answers that were held out."""
    return _preferred(
        run, "kto", "rated answers", "has moved towards the good and away from the bad, beyond the KL, in"
    )


def _preferred(run: Run, name: str, what: str, verb: str) -> Finding | None:
    before, after = run.amounts(name, "before"), run.amounts(name, "after")
    if "accuracy" not in after:
        return None
    stage = next((stage for stage in run.stages if stage.name == name), None)
    count = run.amounts(name).get("held_out", 0)
    rows = [
        (title, words(before[key]) if key in before else "", words(after[key]))
        for key, (title, words) in ROWS.items()
        if key in after
    ]
    return Finding(
        title="Which answer does it prefer?",
        lede=f"Of {count:,.0f} {what} that it has not seen, it {verb} {formats.percent(after['accuracy'])}."
        + _kl(run, name),
        plots=_plots(stage, before) if stage else (),
        head=("On what was held out", "Before", "After"),
        rows=rows,
        aside=f"Loss: {run.part(name).get('loss')}, beta {run.part(name).get('beta')}. "
        "A reward is beta times the log-probability under the model minus that under its reference.",
    )


def _kl(run: Run, name: str) -> str:
    """How far the model is from its reference, as a sentence; "" where nobody measured it."""
    kl = run.amounts(name, "kl")
    if "kl" not in kl:
        return ""
    nats, error, a_token = (formats.significant(kl[key]) for key in ("kl", "standard_error", "kl_per_token"))
    return f" In answers of its own it is {nats} ± {error} nats from its reference, {a_token} a token."


def _plots(stage: Stage, before: Record) -> list[Plot]:
    held_out = [{"step": 0, **before}, *stage.validations] if before else list(stage.validations)
    plots: list[Plot] = []
    better, worse = _curve(held_out, "reward_chosen"), _curve(held_out, "reward_rejected")
    if better and worse:
        plots.append(
            draw_curves(
                [Curve(name="better", points=better, main=True), Curve(name="worse", points=worse)],
                x="Step",
                name=f"{stage.name} rewards",
                caption="Mean rewards of held-out answers. What counts is the distance between the lines: often both "
                "fall, and the worse answer falls faster.",
            )
        )
    for key, title in (("margin", "Mean margin of held-out pairs."), ("accuracy", "Accuracy on what was held out.")):
        if points := _curve(held_out, key):
            curve = Curve(name=key, points=points, main=True)
            plots.append(draw_curves([curve], x="Step", name=f"{stage.name} {key}", caption=title))
    if len(finite(stage.steps, "kl")) > 1:
        points = [(point.step, point.value) for point in thin(stage.steps, "kl", points=POINTS)]
        caption = "The estimate of the KL that the loss compares with, in nats an answer."
        plots.append(
            draw_curves(
                [Curve(name="KL", points=points, main=True)], x="Step", name=f"{stage.name} KL", caption=caption
            )
        )
    return plots


def _curve(records: Sequence[Record], key: str) -> list[tuple[float, float]]:
    """(step, value) of the records that have it; [] where that is no curve."""
    points = [(float(record["step"]), value) for record in records if (value := number(record, key)) is not None]
    return points if len(points) > 1 else []
