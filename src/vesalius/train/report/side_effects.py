"""Findings about what goes wrong where a model is tuned by rewards: each is drawn where a run has measured it.

overoptimisation   {"points": [{"kl", "proxy", "gold", "label"}, …], "turn": {…} or None}    evals/overoptimisation
length_bias        {"correlation", "longer_preferred", "longer_better", "pairs"}             evals/length_bias
diversity          {"before": {"distinct_1", …}, "after": {…}}                               evals/diversity
alignment_tax      [{"name", "before", "after", "change", "worse"}, …]                       evals/alignment_tax
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


def overoptimisation(run: Run) -> Finding | None:
    """The proxy's reward and the gold one, as the policy goes away from its beginning."""
    part = run.part("overoptimisation")
    points = [point for point in part.get("points") or [] if number(point, "kl") is not None]
    if len(points) < 2:
        return None
    points.sort(key=lambda point: point["kl"])
    last, turn = points[-1], part.get("turn")
    told = (
        f"Gold is highest at {formats.significant(turn['kl'])} nats; from there on the proxy rises by "
        f"{formats.significant(turn['proxy_rise'])} and gold falls by {formats.significant(turn['lost'])}."
        if turn
        else f"Gold was still rising at {formats.significant(last['kl'])} nats."
    )

    def curve(key: str, title: str, *, main: bool) -> Curve:
        return Curve(name=title, points=[(math.sqrt(point["kl"]), point[key]) for point in points], main=main)

    return Finding(
        title="Is the reward still worth what it says?",
        lede="The proxy is what was optimised, gold what it stands for. " + told,
        plots=[
            draw_curves(
                [curve("proxy", "proxy", main=False), curve("gold", "gold", main=True)],
                x="Distance from the beginning, √KL",
                name="overoptimisation",
                caption=f"Mean proxy and gold reward by the root of the KL divergence. {told}",
                mark=math.sqrt(turn["kl"]) if turn else None,
            )
        ],
        head=("", "KL, nats", "Proxy", "Gold"),
        rows=[
            (str(p.get("label", "")), *(formats.significant(p[key]) for key in ("kl", "proxy", "gold"))) for p in points
        ],
    )


def length_bias(run: Run) -> Finding | None:
    """How much of what is rewarded is length; of a reward model's held-out pairs, or of a policy's answers."""
    found = run.amounts("length_bias") or run.amounts("reward", "length_bias")
    if "correlation" not in found and "longer_preferred" not in found:
        return None
    names = {
        "longer_preferred": "The longer answer has the higher reward",
        "longer_better": "The longer answer is the better one",
    }
    rows = [(title, formats.percent(found[key])) for key, title in names.items() if key in found]
    rows += (
        [("Correlation of reward and length", formats.significant(found["correlation"]))]
        if "correlation" in found
        else []
    )
    return Finding(
        title="Does it like length?",
        lede="Where the longer answer is rewarded more often than it is better, length is paid for its own sake, and a "
        "policy will find that out.",
        head=("", "Held-out pairs" if "longer_preferred" in found else "Answers"),
        rows=rows,
    )


def diversity(run: Run) -> Finding | None:
    """How different the answers are, before and after."""
    before, after = run.amounts("diversity", "before"), run.amounts("diversity", "after")
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
