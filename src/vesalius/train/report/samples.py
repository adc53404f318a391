"""Text that the model wrote, each token shaded by how likely the model found it.

Three signs say the same, so that no one depends on colour: the depth of one hue, the weight of the line under the
token, and the number under the pointer. Characters that cannot be seen are given a form: line ends, tabs, spaces that
are a token by themselves, and control characters.
"""

from dataclasses import dataclass

from markupsafe import Markup, escape

from vesalius.train.report import formats
from vesalius.train.report.reading import STAGE_TITLES, Record, Run, number

LEVELS = (
    (0.8, f"80{formats.NARROW}% and more"),
    (0.5, f"50 to 80{formats.NARROW}%"),
    (0.2, f"20 to 50{formats.NARROW}%"),
    (0.05, f"5 to 20{formats.NARROW}%"),
    (0.0, f"below 5{formats.NARROW}%"),
)
CONTROL_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
ENDS = {"length": "stopped at the length limit", "stop": "ended by itself"}


@dataclass(frozen=True, kw_only=True)
class Token:
    """`level` counts from 0, hardly a surprise, to 4."""

    text: Markup
    level: int
    hint: str


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A prompt and what the model went on with."""

    stage: str
    prompt: str
    tokens: list[Token]
    end: str


def samples(run: Run) -> list[Sample]:
    """All samples of the run; those without tokens are left out."""
    return [sample(record) for record in run.evals.get("samples") or [] if record.get("tokens")]


def sample(record: Record) -> Sample:
    """One record of evals.json for the template."""
    stage, end = str(record.get("stage", "")), str(record.get("finish_reason") or "")
    return Sample(
        stage=STAGE_TITLES.get(stage, stage),
        prompt=str(record.get("prompt", "")).translate(CONTROL_PICTURES),
        tokens=[token(str(piece.get("text", "")), number(piece, "probability")) for piece in record["tokens"]],
        end=ENDS.get(end, end),
    )


def token(text: str, probability: float | None) -> Token:
    """The token escaped and made visible; without a probability it counts as no surprise."""
    sure = 1.0 if probability is None else max(probability, 0.0)
    level = next(n for n, (least, _) in enumerate(LEVELS) if sure >= least)
    hint = "probability not recorded" if probability is None else f"probability {formats.percent(probability)}"
    return Token(text=visible(text), level=level, hint=hint)


def visible(text: str) -> Markup:
    """Escaped text whose line ends, tabs and blank tokens carry an element that the style draws as a sign."""
    if text and not text.strip(" "):
        return Markup('<i class="space"> </i>') * len(text)
    marked = escape(text.translate(CONTROL_PICTURES))
    return marked.replace("\n", Markup('<i class="newline"></i>\n')).replace("\t", Markup('<i class="tab">\t</i>'))
