"""The alignment tax: what a model lost of what it could do before (Askell et al. 2021, arXiv:2112.00861, section 1;
Ouyang et al. 2022, arXiv:2203.02155, section 4.2): bits per byte of pretraining text, and a panel of tasks.

Forgetting is the first line of it: general text costs more bits than before.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vesalius.core.errors import UserError

LOWER_IS_BETTER = ("bits_per_byte", "loss", "perplexity", "error")
"""Endings of the names of measures that should fall; all others should rise."""


@dataclass(frozen=True, kw_only=True)
class TaxRow:
    """One measure before and after. `change` is relative to before, None where that is 0; `worse`: in the wrong
    direction."""

    name: str
    before: float
    after: float
    change: float | None
    worse: bool


def alignment_tax(before: Mapping[str, float], after: Mapping[str, float]) -> list[TaxRow]:
    """The measures that both have, the worst relative loss first. UserError where they have none in common.

    >>> [row] = alignment_tax({"bits_per_byte": 2.0}, {"bits_per_byte": 2.1})
    >>> round(row.change, 3), row.worse
    (0.05, True)
    """
    names = [name for name in before if name in after]
    if not names:
        raise UserError(
            f"nothing was measured both before and after: {', '.join(before) or 'nothing'} against "
            f"{', '.join(after) or 'nothing'}; measure the same things twice"
        )
    rows = [_row(name, before[name], after[name]) for name in names]
    return sorted(rows, key=lambda row: -abs(row.change or 0.0) if row.worse else abs(row.change or 0.0))


def as_evals(rows: list[TaxRow]) -> list[dict[str, Any]]:
    """As evals.json holds them, and the report draws them."""
    return [asdict(row) for row in rows]


def _row(name: str, before: float, after: float) -> TaxRow:
    falls = name.endswith(LOWER_IS_BETTER)
    return TaxRow(
        name=name,
        before=before,
        after=after,
        change=(after - before) / abs(before) if before else None,
        worse=after > before if falls else after < before,
    )
