"""Findings about what goes wrong where a model is tuned by rewards: each is drawn where a run has measured it.

STAGE.overoptimisation           {"method", "points": [{"kl", "proxy", "gold", "label"}, …], "turn": {…} or None}
STAGE.length_bias                {"correlation", "longer_preferred", "longer_better", "accuracy_longer", …}
STAGE.before.diversity, .after.  {"distinct_1", "distinct_2", "self_bleu", "entropy"}
alignment_tax                    [{"name", "before", "after", "change", "worse"}, …]

as evals/overoptimisation, length_bias, diversity and alignment_tax make them; STAGE is grpo, ppo, dpo or reward.
"""

import math

from vesalius.train.report import formats
from vesalius.train.report.finding import Finding
from vesalius.train.report.plots import Curve, draw_curves
from vesalius.train.report.reading import Record, Run, number

MEASURES = {
    "distinct_1": ("Different words, of all", formats.percent),
    "distinct_2": ("Different pairs of words, of all", formats.percent),
    "self_bleu": ("Self-BLEU: 1 where all say the same", formats.significant),
    "entropy": ("Entropy of pairs of words, bits", formats.significant),
}
LENGTHS = {
    "longer_preferred": ("The longer answer is preferred", formats.percent),
    "longer_better": ("The longer answer is the better one", formats.percent),
    "accuracy_longer": ("Right where the better answer is the longer one", formats.percent),
    "accuracy_shorter": ("Right where the better answer is the shorter one", formats.percent),
    "margin_correlation": ("Correlation of margin and difference in length", formats.significant),
    "correlation": ("Correlation of reward and length", formats.significant),
}
BEGINNINGS = {
    "policy": "The proxy is what the policy was trained with, gold what it stands for.",
    "best_of_n": "Of n answers the one that the reward model likes best is taken; gold is whether it is right.",
}


def overoptimisation(run: Run, stage: str) -> Finding | None:
    """The proxy's reward and the gold one, as the policy goes away from its beginning."""
    part = run.part(stage, "overoptimisation")
    points = sorted(part.get("points") or [], key=lambda point: point["kl"])
    if len(points) < 2:
        return None
    honest = all(point["proxy"] == point["gold"] for point in points)
    told = _turn(points[-1], part.get("turn"), honest=honest)

    def curve(key: str, title: str, *, main: bool) -> Curve:
        return Curve(name=title, points=[(math.sqrt(point["kl"]), point[key]) for point in points], main=main)

    marked = {"Beginning": points[0], "Highest gold": max(points, key=lambda point: point["gold"]), "End": points[-1]}
    proxy, gold = curve("proxy", "proxy", main=False), curve("gold", "gold", main=True)
    return Finding(
        title="Is the reward still worth what it says?",
        lede=("What is optimised is the gold reward itself. " if honest else f"{BEGINNINGS[part['method']]} ") + told,
        plots=[
            draw_curves(
                [gold] if honest else [proxy, gold],
                x="Distance from the beginning, \u221aKL",
                name=f"{stage} overoptimisation",
                caption=f"Mean proxy and gold reward by the root of the KL divergence. {told}",
                mark=math.sqrt(part["turn"]["kl"]) if part.get("turn") else None,
            )
        ],
        head=("", "KL, nats", "Proxy", "Gold"),
        rows=[
            (f"{what}: {point['label']}", *(formats.significant(point[key]) for key in ("kl", "proxy", "gold")))
            for what, point in marked.items()
        ],
    )


def _turn(last: Record, turn: Record | None, *, honest: bool) -> str:
    if turn is None:
        return f"Up to {formats.significant(last['kl'])} nats gold does not turn, beyond what chance makes of it."
    proxy = "" if honest else f"the proxy rises by {formats.significant(turn['proxy_rise'])} and "
    return (
        f"Gold is highest at {formats.significant(turn['kl'])} nats; from there on {proxy}gold falls by "
        f"{formats.significant(turn['lost'])}."
    )


def length_bias(run: Run, stage: str) -> Finding | None:
    """How much of what is preferred is length: of a reward model, or of a model that learned from pairs."""
    found = run.amounts(stage, "length_bias")
    rows = [(title, words(found[key])) for key, (title, words) in LENGTHS.items() if key in found]
    if not rows:
        return None
    return Finding(
        title="Does it like length?",
        lede="Where the longer answer is preferred more often than it is better, length is paid for its own sake, and "
        "a policy will find that out. Then it is right more often, too, where the better answer is the longer one.",
        head=("", "Held-out pairs"),
        rows=rows,
        aside="Preferred is what the reward model gives the higher reward."
        if stage == "reward"
        else "Preferred is the answer that has gained more log-probability since the stage began.",
    )


def diversity(run: Run, stage: str) -> Finding | None:
    """How different the answers are, before and after."""
    before, after = run.amounts(stage, "before", "diversity"), run.amounts(stage, "after", "diversity")
    rows = [
        (title, words(before[key]) if key in before else "", words(after[key]))
        for key, (title, words) in MEASURES.items()
        if key in after
    ]
    if not rows:
        return None
    return Finding(
        title="Does it still say different things?",
        lede="Answers to the same prompts before and after. Fewer different words, less entropy and a higher self-BLEU "
        "mean that the model says the same again and again.",
        head=("", "Before", "After"),
        rows=rows,
    )


def alignment_tax(run: Run) -> Finding | None:
    """What was lost of what the model could do before."""
    rows = [row for row in run.evals.get("alignment_tax") or [] if number(row, "after") is not None]
    if not rows:
        return None
    worse = sum(bool(row.get("worse")) for row in rows)
    return Finding(
        title="What did it cost?",
        lede=f"The same measures before and after: {worse} of {len(rows)} became worse. The worst stands first.",
        head=("", "Before", "After", "Change", ""),
        rows=[_tax_row(row) for row in rows],
    )


def _tax_row(row: Record) -> tuple[str, ...]:
    change = number(row, "change")
    signed = "" if change is None else ("+" if change >= 0 else "\u2212") + formats.percent(abs(change))
    name = str(row.get("name", "")).replace("_", " ").capitalize()
    verdict = "worse" if row.get("worse") else "not worse"
    return name, f"{row['before']:.3f}", f"{row['after']:.3f}", signed, verdict
