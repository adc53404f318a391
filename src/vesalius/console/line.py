"""A line that says how far something is: drawn over itself in a terminal, written now and then in a log.

A live line is drawn by the thread that works, at most twice a second, so between two drawings it costs one look at the
clock. Descriptions and messages are shown without control characters: a file's name must not move the cursor.
"""

from collections.abc import Callable
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

Clock = Callable[[], float]

LIVE_SECONDS = 0.5
BAR_WIDTH = 20


class Line(Protocol):
    """What shows progress; `fraction` is None where the whole is not known."""

    description: str

    def due(self, fraction: float | None) -> bool:
        """Whether it is time to show something."""

    def show(self, fraction: float | None, words: str) -> None:
        """Shows how far it is by now."""

    def say(self, words: str, style: str = "") -> None:
        """Something that stays to be read."""

    def close(self) -> None:
        """Nothing more will be shown."""


class LiveLine(Line):
    """A line that is drawn over itself. A `ticking` one redraws itself with the time, since nobody may call `show`."""

    def __init__(self, description: str, console: Console, clock: Clock, *, ticking: bool = False) -> None:
        self.description, self.console, self.clock, self.ticking = description, console, clock, ticking
        self.fraction: float | None = None
        self.words = ""
        self.started = self.next_at = clock()
        self.live = Live(
            console=console,
            get_renderable=self._draw,
            auto_refresh=ticking,
            refresh_per_second=1 / LIVE_SECONDS,
            transient=True,
            redirect_stdout=False,  # it would go to standard error
        )
        self.live.start()

    def due(self, fraction: float | None) -> bool:
        return self.clock() >= self.next_at

    def show(self, fraction: float | None, words: str) -> None:
        self.next_at = self.clock() + LIVE_SECONDS
        self.fraction, self.words = fraction, words
        self.live.refresh()

    def say(self, words: str, style: str = "") -> None:
        self.console.print(Text(words, style=style))

    def close(self) -> None:
        self.live.stop()

    def _draw(self) -> Text:
        elapsed = clock_time(self.clock() - self.started) if self.ticking else ""
        words = "  ".join(part for part in (self.words, elapsed) if part)
        middle = bar(self.fraction) if self.fraction is not None else []
        return Text.assemble((self.description, "bold"), "  ", *middle, words, no_wrap=True, overflow="ellipsis")


class PlainLine(Line):
    """Lines for a log: one after 10 seconds and a twentieth of the way, at the latest after a minute."""

    def __init__(self, description: str, console: Console, clock: Clock) -> None:
        self.description, self.console, self.clock = description, console, clock
        self.last_at, self.last_fraction = clock(), 0.0

    def due(self, fraction: float | None) -> bool:
        waited, moved = self.clock() - self.last_at, (fraction or 0.0) - self.last_fraction
        return waited >= 60 or (waited >= 10 and moved >= 0.05)

    def show(self, fraction: float | None, words: str) -> None:
        self.last_at, self.last_fraction = self.clock(), fraction or 0.0
        share = f"{100 * fraction:.0f}%  " if fraction is not None else ""
        self.say(f"{self.description}  {share}{words}")

    def say(self, words: str, style: str = "") -> None:
        self.console.print(Text(words), soft_wrap=True)

    def close(self) -> None:
        pass


def open_line(description: str, console: Console, clock: Clock, *, ticking: bool = False) -> Line:
    """The line that suits the console: live in a terminal, plain in a file or a pipe."""
    if console.is_terminal:
        return LiveLine(printable(description), console, clock, ticking=ticking)
    return PlainLine(printable(description), console, clock)


def bar(fraction: float) -> list[tuple[str, str]]:
    """A bar and its percentage as styled pieces."""
    halves = round(2 * BAR_WIDTH * min(1.0, max(0.0, fraction)))
    done = "━" * (halves // 2) + "╸" * (halves % 2)
    rest = "─" * (BAR_WIDTH - len(done))
    return [(done, "cyan"), (rest, "bright_black"), (f" {100 * fraction:3.0f}%  ", "")]


def printable(words: str) -> str:
    """The text with a mark in place of each character that would steer the terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in words)


def clock_time(seconds: float) -> str:
    """Seconds as a clock shows them: 9 -> "0:09", 3_725 -> "1:02:05"."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def short(number: float) -> str:
    """A count in few characters: 950 -> "950", 21_430 -> "21.4k", 16_711_680 -> "16.7M"."""
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.1f}{letter}"
    return f"{number:.0f}"
