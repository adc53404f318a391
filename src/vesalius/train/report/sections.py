"""What the evaluations say, as plain values: the template places words and calculates nothing.

A section is empty where the run has nothing for it; the template then leaves it out, or says why.
"""

from collections.abc import Callable
from dataclasses import dataclass

from vesalius.train.report import formats
from vesalius.train.report.reading import STAGE_TITLES, Run
from vesalius.train.report.samples import samples

PREDICTORS = {
    "model": "This model",
    "after_sft": "This model, tuned",
    "kneser_ney": "Kneser-Ney 5-gram",
    "xz": "xz",
    "gzip": "gzip",
    "uniform": "Uniform",
}
OURS = ("model", "after_sft")
PART_NAMES = {
    **STAGE_TITLES, "mlp": "MLP", "kv_cache": "KV cache", "head": "Output head", "norm": "Norms",
    "encode": "Encoding", "eval": "Evaluation",
}  # fmt: skip
SPLITS = {"seen": "Modules seen in training", "unseen": "Modules never seen"}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A row of the comparison: `share` of the longest bar, `ours` where it is the model."""

    label: str
    value: str
    share: float
    ours: bool


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """A share of right choices with its 95 % interval, all as fractions."""

    label: str
    value: float
    low: float
    high: float
    questions: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of a whole."""

    label: str
    value: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Whole:
    """Something that was spent, and on what, the largest first."""

    title: str
    total: str
    parts: list[Part]
    note: str


@dataclass(frozen=True, kw_only=True)
class CorpusRow:
    """One split of the corpus in words."""

    label: str
    documents: str
    bytes: str
    tokens: str
    bytes_per_token: str


def baselines(run: Run) -> list[Bar]:
    """Bits per byte of the model and of all that it is compared with, the worst first."""
    measured = {key: value for key, value in run.amounts("bits_per_byte").items() if key in PREDICTORS}
    longest = max(measured.values(), default=1.0)
    return [
        Bar(label=PREDICTORS[key], value=f"{value:.3f}", share=value / longest, ours=key in OURS)
        for key, value in sorted(measured.items(), key=lambda pair: -pair[1])
    ]


def accuracies(run: Run) -> list[Accuracy]:
    """Docstring choice on seen and unseen modules, with the normal approximation's 95 % interval."""
    rows = []
    for key, label in SPLITS.items():
        result = run.amounts("docstring_choice", key)
        if (value := result.get("accuracy")) is not None:
            reach = 1.96 * result.get("standard_error", 0.0)
            low, high = max(0.0, value - reach), min(1.0, value + reach)
            rows.append(Accuracy(label=label, value=value, low=low, high=high, questions=int(result.get("n", 0))))
    return rows


def spendings(run: Run) -> list[Whole]:
    """Where parameters, arithmetic, memory and time went; those that are not known are left out."""
    memory = run.amounts("model", "bytes")
    cache = memory.pop("kv_cache", 0)
    note = f"Generating takes the weights, and {formats.size(cache)} of cache for a full context." if cache else ""
    wholes = (
        whole("Parameters", run.amounts("model", "parameters"), formats.count),
        whole("FLOPs per token, forward", run.amounts("model", "flops"), formats.count),
        whole("Memory in training", memory, formats.size, note),
        whole("Time", run.seconds, formats.duration),
    )
    return [spending for spending in wholes if spending.parts]


def whole(title: str, amounts: dict[str, float], words: Callable[[float], str], note: str = "") -> Whole:
    """The amounts as parts of their sum, without those that are nothing."""
    total = sum(amounts.values())
    spent = sorted(((amount, name) for name, amount in amounts.items() if amount > 0), reverse=True)
    parts = [Part(label=part_name(name), value=words(amount), share=amount / total) for amount, name in spent]
    return Whole(title=title, total=words(total), parts=parts, note=note)


def part_name(key: str) -> str:
    """A key of evals.json as a label: "attention_scores" -> "Attention scores"."""
    return PART_NAMES.get(key, key.replace("_", " ").capitalize())


def corpus(run: Run) -> list[CorpusRow]:
    """How much text there was to learn from, and how much was held out."""
    return [row for row in (corpus_row(run, "Training", ""), corpus_row(run, "Held out", "validation_")) if row]


def corpus_row(run: Run, label: str, prefix: str) -> CorpusRow | None:
    """The figures of one split in words; None where one is missing."""
    figures = run.amounts("corpus")
    documents, size, tokens = (figures.get(prefix + key) for key in ("documents", "bytes", "tokens"))
    if documents is None or size is None or not tokens:
        return None
    return CorpusRow(
        label=label,
        documents=f"{documents:,}",
        bytes=formats.size(size),
        tokens=formats.count(tokens),
        bytes_per_token=f"{size / tokens:.2f}",
    )


def missing(run: Run) -> str:
    """What an unfinished run would still have measured, in words; "" where it is finished."""
    comparison, choice = "bits per byte against the baselines", "docstring choice"
    wanted = ((comparison, baselines), (choice, accuracies), ("samples", samples))
    scores = {"reward", "prm"} & {stage.name for stage in run.stages}  # and writes nothing
    return "" if run.finished or scores else ", ".join(name for name, section in wanted if not section(run))


def rates(run: Run) -> str:
    """The machine's measured limits in one line."""
    names = {
        "float32": ("float32 products", "FLOP"),
        "bfloat16": ("bfloat16 products", "FLOP"),
        "read": ("reading", "B"),
    }
    measured = run.amounts("rates")
    return ", ".join(
        f"{name} {formats.rate(measured[key], unit)}" for key, (name, unit) in names.items() if key in measured
    )
