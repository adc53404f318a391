"""Numbers as a person reads them: three significant digits, units apart by a space that never breaks.

One place, so that the same quantity looks the same in the headline, in a table and under the pointer.
"""

NARROW = "\u202f"  # no-break and narrow: between a number and %
SPACE = "\u00a0"  # no-break: between a number and its unit


def count(number: float) -> str:
    """How many: 950 -> "950", 21_430 -> "21,430", 5_812_224 -> "5.81 million"."""
    for scale, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(number) >= scale:
            return f"{significant(number / scale)}{SPACE}{word}"
    return f"{number:,.0f}"


def short(number: float) -> str:
    """A count for narrow places: 21_430 -> "21.4k", 5_812_224 -> "5.81M"."""
    for scale, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= scale:
            return f"{significant(number / scale)}{letter}"
    return f"{number:,.0f}"


def rate(number: float, unit: str) -> str:
    """So much a second: (1.93e11, "FLOP") -> "193 GFLOP/s"."""
    text = short(number)
    digits = text.rstrip("PTGMk")
    return f"{digits}{SPACE}{text[len(digits) :]}{unit}/s"


def size(number: float) -> str:
    """Bytes in decimal units: 11_240_000 -> "11.2 MB"."""
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(number) >= scale:
            return f"{significant(number / scale)}{SPACE}{unit}"
    return f"{number:,.0f}{SPACE}bytes"


def duration(seconds: float) -> str:
    """The two largest units: 0.82 -> "0.8 s", 384 -> "6 min 24 s", 4_320 -> "1 h 12 min"."""
    if seconds < 10:
        return f"{seconds:.1f}{SPACE}s"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours}{SPACE}h {minutes}{SPACE}min"
    return f"{minutes}{SPACE}min {whole % 60}{SPACE}s" if minutes else f"{whole}{SPACE}s"


def percent(fraction: float) -> str:
    """0.634 -> "63 %"; below a tenth one digit more, so that small shares do not become zero."""
    value = 100 * fraction
    return f"{value:.0f}{NARROW}%" if abs(value) >= 9.95 or value == 0 else f"{value:.1f}{NARROW}%"


def significant(number: float) -> str:
    """Three significant digits, never in scientific notation: 5.812 -> "5.81", 58.12 -> "58.1", 581.2 -> "581"."""
    digits = 2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0
    return f"{number:,.{digits}f}"


def scientific(number: float) -> str:
    """A rate of learning: 0.0006 -> "6.0e-4"."""
    mantissa, exponent = f"{number:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}" if number else "0"
