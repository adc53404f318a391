"""Findings about models that score answers: reward models and process reward models."""

from vesalius.train.report import formats
from vesalius.train.report.finding import Finding
from vesalius.train.report.plots import draw_histogram, draw_reliability
from vesalius.train.report.reading import Run

CHANCE = 0.5


def pairs(run: Run) -> Finding | None:
    """A reward model on held-out pairs."""
    found, part = run.amounts("reward"), run.part("reward")
    if "accuracy" not in found:
        return None
    share = formats.percent(found["accuracy"])
    return Finding(
        title="Does it prefer the better answer?",
        lede=f"Of {found['pairs']:,.0f} pairs that it has not seen, it gives the better answer the higher reward in "
        f"{share}; chance is {formats.percent(CHANCE)}.",
        plots=[
            draw_histogram(
                part["margins"]["edges"],
                part["margins"]["counts"],
                x="Reward of the better answer minus that of the worse",
                name="margins",
                caption=f"Pairs by the difference of their rewards; right of the line the better answer wins: {share}.",
            )
        ],
        head=("", "Held-out pairs"),
        rows=[
            ("Accuracy", share),
            ("Mean difference of rewards", formats.significant(found["margin"])),
            ("Mean reward", formats.significant(found["reward"])),
            ("Standard deviation of rewards", formats.significant(found["reward_deviation"])),
        ],
    )


def scores(run: Run) -> Finding | None:
    """A reward model on held-out scores."""
    found = run.amounts("reward")
    if "mean_squared_error" not in found:
        return None
    rows = [
        ("Mean squared error", formats.significant(found["mean_squared_error"])),
        ("That of always saying the mean", formats.significant(found["error_of_the_mean"])),
    ]
    rows += (
        [("Correlation with the scores", formats.significant(found["correlation"]))] if "correlation" in found else []
    )
    return Finding(
        title="How near are its scores?",
        lede=f"Measured on {found['answers']:,.0f} answers to prompts that it has not seen.",
        head=("", "Held-out answers"),
        rows=rows,
    )


def process(run: Run) -> Finding | None:
    """A process reward model on held-out solutions."""
    found = run.amounts("prm")
    if "accuracy" not in found:
        return None
    share, majority = formats.percent(found["accuracy"]), formats.percent(found["majority"])
    names = {
        "right_steps_found": "Right steps that it calls right",
        "wrong_steps_found": "Wrong steps that it calls wrong",
        "solution_accuracy": "Whole solutions, by the product of their steps",
    }
    return Finding(
        title="Does it find the wrong step?",
        lede=f"Of {found['steps']:,.0f} steps of {found['solutions']:,.0f} solutions that it has not seen, it judges "
        f"{share} rightly; always saying the same would be right in {majority}.",
        head=("", "Held-out solutions"),
        rows=[("Steps judged rightly", share)]
        + [(title, formats.percent(found[key])) for key, title in names.items() if key in found],
    )


def calibration(run: Run) -> Finding | None:
    """Whether the probabilities of either kind are what they say."""
    kind = next((name for name in ("reward", "prm") if run.part(name).get("reliability")), None)
    if kind is None:
        return None
    bins, error = run.part(kind)["reliability"], run.amounts(kind).get("calibration_error", 0.0)
    low = CHANCE if kind == "reward" else 0.0
    said = "its choice is right" if kind == "reward" else "a step is right"
    return Finding(
        title="Is it as sure as it may be?",
        lede=f"How often it is so, by how probable it held that {said}. On the dashed line it is as sure as it is "
        "right, below it surer than it may be.",
        plots=[
            draw_reliability(
                bins,
                low=low,
                x=f"Probability that {said}, as the model has it",
                name="reliability",
                caption="Share that was right against the probability given, in "
                f"{len(bins)} bins; expected calibration error {formats.percent(error)}.",
            )
        ],
        aside=f"Expected calibration error: {formats.percent(error)}.",
    )
