"""The result in one sentence, and the handful of figures under it."""

import re
from dataclasses import dataclass

from vesalius.train.report import formats
from vesalius.train.report.reading import Run, finite
from vesalius.train.report.sections import OURS, PREDICTORS, part_name
from vesalius.train.report.series import median

QUALITY = "bits per byte"


@dataclass(frozen=True, kw_only=True)
class Headline:
    """One sentence: `lead` is set in the accent, `rest` goes on from it."""

    lead: str
    rest: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number worth remembering, what it is, and a line of context; `main` is set in the accent."""

    value: str
    label: str
    note: str = ""
    main: bool = False


def headline(run: Run) -> Headline:
    """What came out, against what, made of how much, in which time, on which machine; as much of it as is known."""
    if not run.finished:
        lead = f"Interrupted at {run.stopped_at}" if run.stages else "Not begun"
        return Headline(lead=lead, rest=unfinished_rest(run))
    model = f"a model of {formats.count(parameters(run))} parameters" if parameters(run) else "a model"
    made = f"{model}{made_in(run)}{made_on(run)}"
    if (bits := run.amounts("bits_per_byte").get("model")) is None:
        return Headline(lead=finished_lead(run), rest=f": {made}.")
    return Headline(lead=f"{bits:.2f} bits per byte", rest=f" on text it never saw{against(run, bits)}: {made}.")


def finished_lead(run: Run) -> str:
    """What a model came to that was not made from text."""
    for stage in ("ppo", "grpo"):
        if (reward := run.amounts(stage, "after").get("reward")) is not None:
            return f"{formats.percent(reward)} of what unseen tasks can earn"
    for parts, what in (
        (("kto", "after"), "answers"),
        (("dpo", "after"), "pairs"),
        (("reward",), "pairs"),
        (("prm",), "steps"),
    ):
        if (share := run.amounts(*parts).get("accuracy")) is not None:
            return f"{formats.percent(share)} of unseen {what} judged rightly"
    if (perplexity := run.amounts("answers", "after").get("perplexity")) is not None:
        return f"A perplexity of {formats.significant(perplexity)} on unseen answers"
    return "A finished run"


def unfinished_rest(run: Run) -> str:
    """The last thing known of a run that has not been evaluated."""
    if not run.stages:
        return ": this run has written no measurements yet."
    if (bits := run.amounts("bits_per_byte").get("model")) is not None:
        return f", after pretraining to {bits:.2f} bits per byte on text it never saw."
    if (bits := last_validation(run)) is not None:
        return f", with {bits:.2f} bits per byte on held-out text at its last validation."
    return ", before its first validation."


def last_validation(run: Run) -> float | None:
    """Bits per byte of the newest validation that gives them."""
    bits = finite((record for stage in run.stages for record in stage.validations), "bits_per_byte")
    return bits[-1] if bits else None


def against(run: Run, bits: float) -> str:
    """How far the model is from the best baseline, in words; "" where none was measured."""
    if (best := best_baseline(run)) is None:
        return ""
    change = bits / best[1] - 1
    return f", {formats.percent(abs(change))} {'below' if change < 0 else 'above'} the best baseline"


def best_baseline(run: Run) -> tuple[str, float] | None:
    """Name and bits per byte of the strongest of the baselines that were measured."""
    bits = run.amounts("bits_per_byte")
    measured = [(name, bits[key]) for key, name in PREDICTORS.items() if key in bits and key not in OURS]
    return min(measured, key=lambda pair: pair[1], default=None)


def parameters(run: Run) -> float:
    """The size of the model; 0 where it is not known."""
    return sum(run.amounts("model", "parameters").values())


def made_in(run: Run) -> str:
    """The time of the whole run, from text to evaluation."""
    seconds = sum(run.seconds.values())
    return f", made in {formats.duration(seconds)}" if seconds else ""


def made_on(run: Run) -> str:
    """The machine in few words: "Intel(R) Xeon(R) CPU @ 2.60GHz, 2 threads, …" -> " on Intel Xeon with 2 threads"."""
    name, _, rest = run.hardware.partition(", ")
    plain = " ".join(re.sub(r"\((R|TM|r|tm)\)|\b(CPU|Processor)\b|@ .*", " ", name).split())
    threads = rest.partition(", ")[0]
    return (f" on {plain}" + (f" with {threads}" if threads.endswith("threads") else "")) if plain else ""


def key_figures(run: Run) -> list[Figure]:
    """At most six figures; what is not known is left out."""
    return [*quality_figures(run), *size_figures(run), *speed_figures(run)]


def quality_figures(run: Run) -> list[Figure]:
    """How well the model predicts, and how that compares."""
    bits = run.amounts("bits_per_byte")
    if "model" not in bits:
        last = last_validation(run)
        return (
            []
            if last is None
            else [Figure(value=f"{last:.2f}", label=QUALITY, note="at the last validation", main=True)]
        )
    note = f"{bits['after_sft']:.2f} after instruction tuning" if "after_sft" in bits else "on held-out text"
    ours = Figure(value=f"{bits['model']:.2f}", label=QUALITY, note=note, main=True)
    if (best := best_baseline(run)) is None:
        return [ours]
    change = bits["model"] / best[1] - 1
    value = ("\u2212" if change < 0 else "+") + formats.percent(abs(change))
    return [ours, Figure(value=value, label="against the best baseline", note=f"{best[0]} needs {best[1]:.2f}")]


def size_figures(run: Run) -> list[Figure]:
    """How large the model is, and how much it has read."""
    figures = []
    if parameters(run):
        weights = run.amounts("model", "bytes").get("weights")
        note = f"{formats.size(weights)} of weights" if weights else ""
        figures.append(Figure(value=formats.short(parameters(run)), label="parameters", note=note))
    if tokens := sum(stage.tokens for stage in run.stages):
        note = f"in {sum(stage.last_step for stage in run.stages):,} steps"
        figures.append(Figure(value=formats.short(tokens), label="tokens trained on", note=note))
    return figures


def speed_figures(run: Run) -> list[Figure]:
    """How long it took, and how much of the machine the first stage used, which trains longest."""
    figures = []
    if seconds := sum(run.seconds.values()):
        longest = max(run.seconds, key=lambda name: run.seconds[name])
        note = f"{formats.duration(run.seconds[longest])} of it {part_name(longest).lower()}"
        figures.append(Figure(value=formats.duration(seconds), label="from text to here", note=note))
    steps = run.stages[0].steps if run.stages else []
    speed, mfu = median(steps, "tok_per_s"), median(steps, "mfu")
    if speed is not None:
        note = f"{formats.percent(mfu)} of the matrix-product rate" if mfu is not None else ""
        figures.append(Figure(value=formats.short(speed), label="tokens per second", note=note))
    return figures
