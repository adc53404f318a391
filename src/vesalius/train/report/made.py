"""What the model made for its own training: how much of it was kept, what the rest was dropped for, what it came to."""

from vesalius.train.report import formats
from vesalius.train.report.finding import Finding
from vesalius.train.report.reading import Record, Run, number

TITLES = {
    "best_of_n": "Best answers to tasks",
    "star": "Reasons that lead to the answer",
    "revisions": "Revised answers",
    "principle_pairs": "Pairs by principle",
    "self_rewarding": "Pairs by its own marks",
}


def made(run: Run) -> Finding | None:
    """A line for each file that the model made, in the order in which they were made."""
    rows = [row(name, told) for name, told in run.part("made").items() if number(told, "rows")]
    if not rows:
        return None
    return Finding(
        title="What it made to learn from",
        lede="Sampled by the model itself, kept where a check, a principle or a mark allowed it.",
        head=("", "Kept", "Share", "Dropped"),
        rows=rows,
        aside="made/ has every row with all that led to it.",
    )


def row(name: str, told: Record) -> tuple[str, ...]:
    """One file's line; what most was dropped for first."""
    total, kept = number(told, "rows") or 0, number(told, "kept") or 0
    reasons = sorted(told.get("dropped", {}).items(), key=lambda pair: -pair[1])
    dropped = "; ".join(f"{reason} {count:,}" for reason, count in reasons)
    return TITLES.get(name, name), f"{kept:,} of {total:,}", formats.percent(kept / total), dropped


def solved(run: Run) -> Finding | None:
    """Held-out tasks that it solved before and after it was tuned on what it made."""
    shares = run.amounts("verified")
    if "before" not in shares:
        return None
    return Finding(
        title="Does it solve what it has not seen?",
        lede=f"{shares['tasks']:,.0f} held-out tasks, each answered once by the likeliest tokens.",
        head=("", "Solved"),
        rows=[(when.capitalize(), formats.percent(shares[when])) for when in ("before", "after") if when in shares],
    )
