"""What a stage could not use of its data: said at once, and kept for the report."""

from collections.abc import Mapping, Sequence

from vesalius.pipeline.life import Life

NAMED = 10
"""Of the items that were left out for one reason: enough to look at, however many there are."""


def tell_left_out(life: Life, stage: str, kept: int, dropped: Mapping[str, Sequence[str]]) -> None:
    """`dropped` has the names of what was left out, by a reason that goes on from "is" or "are"."""
    total = kept + sum(map(len, dropped.values()))
    for reason, names in dropped.items():
        life.display.say(f"{len(names)} of {total} are {reason} and left out (first: {names[0]})")
    told = {reason: {"count": len(names), "names": list(names[:NAMED])} for reason, names in dropped.items()}
    life.add("left_out", **{stage: {"of": total, "reasons": told}})
