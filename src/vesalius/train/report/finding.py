"""The form of a finding (findings.py)."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawing, and what it shows in words for those who cannot see it."""

    svg: Markup
    caption: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`head` and `rows` are a table, the first cell of each row its label; either may be empty."""

    title: str
    lede: str
    plots: Sequence[Plot] = ()
    head: tuple[str, ...] = ()
    rows: Sequence[tuple[str, ...]] = ()
    aside: str = ""
