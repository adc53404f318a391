"""The finding of a student that learned from a teacher: how near it has come, and how well both answer.

distill  {"divergence", "before": {"loss", "agreement", …}, "after": {…}, "parameters",
          "teacher": {"parameters", "perplexity", …}}                                               pipeline/distill
"""

from vesalius.train.report import formats
from vesalius.train.report.finding import Finding, Plot
from vesalius.train.report.plots import Curve, draw_curves, points_of
from vesalius.train.report.reading import Run, Stage

NAMES = {"forward_kl": "Forward KL", "reverse_kl": "Reverse KL", "jsd": "JSD"}


def student(run: Run) -> Finding | None:
    """A student on conversations that were held out, beside its teacher."""
    before, after = run.amounts("distill", "before"), run.amounts("distill", "after")
    if "loss" not in after:
        return None
    part, teacher = run.part("distill"), run.amounts("distill", "teacher")
    name = NAMES.get(str(part.get("divergence")), "Divergence") if "agreement" in after else "Cross-entropy"
    rows: list[tuple[str, ...]] = [(f"{name}, nats a token", *_three(before.get("loss"), after["loss"], None))]
    if "agreement" in after:
        shares = (formats.percent(found["agreement"]) if "agreement" in found else "" for found in (before, after))
        rows.append(("Its likeliest token is the teacher's", *shares, ""))
    was, now = (run.amounts("answers", when).get("perplexity") for when in ("before", "after"))
    if now is not None:
        rows.append(("Perplexity of the true answers", *_three(was, now, teacher.get("perplexity"))))
    stage = next((stage for stage in run.stages if stage.name == "distill"), None)
    return Finding(
        title="How near is it to its teacher?",
        lede=_lede(run, after, teacher),
        plots=_plots(stage, before, name) if stage else (),
        head=("On what was held out", "Before", "After", "Teacher"),
        rows=rows,
    )


def _lede(run: Run, after: dict[str, float], teacher: dict[str, float]) -> str:
    """Sizes, and how often both agree."""
    ours, theirs = run.amounts("distill").get("parameters"), teacher.get("parameters")
    sizes = (
        f"A student of {formats.count(ours)} parameters, {formats.percent(ours / theirs)} of its teacher's"
        if ours and theirs
        else "A student that learned from what a teacher once said"
    )
    if "agreement" not in after:
        return f"{sizes}."
    return f"{sizes}: both hold the same token to be the likeliest in {formats.percent(after['agreement'])}."


def _three(*values: float | None) -> tuple[str, ...]:
    return tuple("" if value is None else formats.significant(value) for value in values)


def _plots(stage: Stage, before: dict[str, float], name: str) -> list[Plot]:
    held_out = [{"step": 0, **before}, *stage.validations] if before else list(stage.validations)
    captions = {"loss": f"{name} on what was held out, in nats a token.", "agreement": "How often both agree."}
    return [
        draw_curves([Curve(name=key, points=points, main=True)], x="Step", name=f"distill {key}", caption=caption)
        for key, caption in captions.items()
        if (points := points_of(held_out, key))
    ]
