"""Findings about policies that were reinforced: what they earn on tasks that they have not seen, and how they changed
on the way: KL, entropy, length, what was clipped, and how much of the prompts was found in the engine's cache.
"""

from vesalius.train.report.finding import Finding, Plot
from vesalius.train.report.plots import Curve, draw_curves
from vesalius.train.report.reading import Run, Stage, finite, number
from vesalius.train.report.series import thin

TITLES = {"grpo": "What it earns, by comparison of its answers", "ppo": "What it earns, with a critic"}
ROWS = {
    "reward": "Verified reward of the likeliest answers",
    "sampled_reward": "Verified reward of drawn answers",
    "proxy": "Reward of drawn answers by what it is trained with",
    "length": "Tokens of a drawn answer",
    "kl": "KL of drawn answers to where it began, nats",
}
CURVES = {
    "kl": "KL to where it began, nats an answer.",
    "entropy": "Entropy, nats a token: near 0 it always says the same.",
    "length": "Tokens of an answer.",
    "clip_fraction": "Share of tokens whose gradient was clipped away.",
    "value_explained": "Share of the returns' variance that the critic's values explain.",
    "hit_rate": "Share of prompt tokens that were found in the engine's cache.",
}
POINTS = 60
"""Of a curve that every step has a point of."""


def compared(run: Run) -> Finding | None:
    """Of [grpo]."""
    return _earned(run, "grpo")


def criticised(run: Run) -> Finding | None:
    """Of [ppo]."""
    return _earned(run, "ppo")


def _earned(run: Run, name: str) -> Finding | None:
    before, after = run.amounts(name, "before"), run.amounts(name, "after")
    if "reward" not in before:
        return None
    stage = next((stage for stage in run.stages if stage.name == name), None)
    count = f"{run.amounts(name).get('held_out', 0):,.0f} held-out tasks"
    told = f" and came to {after['reward']:.3f}" if "reward" in after else ""
    rows = [
        (title, f"{before[key]:.3f}", f"{after[key]:.3f}" if key in after else "")
        for key, title in ROWS.items()
        if key in before
    ]
    return Finding(
        title=TITLES[name],
        lede=f"The mean verified reward on {count} was {before['reward']:.3f}{told}.",
        plots=_plots(stage, before["reward"]) if stage else (),
        head=("", "Before", "After"),
        rows=rows,
    )


def _plots(stage: Stage, before: float) -> list[Plot]:
    sampled = _curve(stage, "reward")
    measured = [(float(record["step"]), number(record, "reward")) for record in stage.validations]
    held_out = [(0.0, before)] + [(step, reward) for step, reward in measured if reward is not None]
    curves = [Curve(name="training", points=sampled)] if sampled else []
    curves += [Curve(name="held out", points=held_out, main=True)] if len(held_out) > 1 else []
    plots = []
    if curves:
        caption = "Reward of the answers that were trained on, and verified reward of the likeliest to held-out tasks."
        plots.append(draw_curves(curves, x="Step", name=f"{stage.name} reward", caption=caption))
    for key, caption in CURVES.items():
        if points := _curve(stage, key):
            curve = Curve(name="", points=points, main=True)
            plots.append(draw_curves([curve], x="Step", name=f"{stage.name} {key}", caption=caption))
    return plots


def _curve(stage: Stage, key: str) -> list[tuple[float, float]]:
    """(step, value), thinned; [] where that is no curve."""
    if len(finite(stage.steps, key)) < 2:
        return []
    return [(point.step, point.value) for point in thin(stage.steps, key, points=POINTS)]
