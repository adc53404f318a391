"""What the model made for its own training: how much of it was kept, what the rest was dropped for, what it came to."""

from dataclasses import dataclass

from vesalius.train.report import formats
from vesalius.train.report.reading import Run, number

TITLES = {
    "best_of_n": "Best answers to tasks",
    "star": "Reasons that lead to the answer",
    "revisions": "Revised answers",
    "principle_pairs": "Pairs by principle",
    "self_rewarding": "Pairs by its own marks",
}


@dataclass(frozen=True, kw_only=True)
class Made:
    """One file of made data in words; `share` of it was kept."""

    label: str
    kept: str
    share: str
    dropped: str


def made(run: Run) -> list[Made]:
    """A line for each file, in the order in which they were made."""
    found = []
    for name, told in run.part("made").items():
        rows, kept = number(told, "rows"), number(told, "kept")
        if rows and kept is not None:
            reasons = sorted(told.get("dropped", {}).items(), key=lambda pair: -pair[1])
            found.append(
                Made(
                    label=TITLES.get(name, name),
                    kept=f"{kept:,} of {rows:,}",
                    share=formats.percent(kept / rows),
                    dropped="; ".join(f"{reason} {count:,}" for reason, count in reasons),
                )
            )
    return found


def solved(run: Run) -> str:
    """Held-out tasks solved before and after, in a sentence; "" where they were not tried."""
    shares = run.amounts("verified")
    if "before" not in shares:
        return ""
    text = f"Of {shares['tasks']:,.0f} held-out tasks it solved {formats.percent(shares['before'])} before"
    return f"{text} and {formats.percent(shares['after'])} after." if "after" in shares else f"{text}."
