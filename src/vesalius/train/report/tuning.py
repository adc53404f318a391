"""Findings about tuning on conversations: how the model answers what was held out, what it learned from, and what could
not be used of the data.

answers       {"before": {"perplexity", …, "written": {"rouge_l", …}}, "after": {…}}             evals/answers
learned_from  {stage: [{"name", "conversations", "tokens", "share"}, …]}                        pipeline/conversations
left_out      {stage: {"of", "reasons": {reason: {"count", "names"}}}}                          pipeline/left_out
"""

from collections.abc import Callable

from vesalius.train.report import formats
from vesalius.train.report.finding import Finding
from vesalius.train.report.reading import STAGE_TITLES, Record, Run

SHOWN = 5
"""Names of what was left out for one reason."""


def answers(run: Run) -> Finding | None:
    """Held-out conversations before and after tuning."""
    before, after = run.amounts("answers", "before"), run.amounts("answers", "after")
    if "perplexity" not in after:
        return None
    wrote = run.amounts("answers", "after", "written")
    rows = [_row("Perplexity of the true answers", before.get("perplexity"), after["perplexity"], formats.significant)]
    if "rouge_l" in wrote:
        was = run.amounts("answers", "before", "written").get("rouge_l")
        rows.append(_row("ROUGE-L of the model's own answers", was, wrote["rouge_l"], formats.percent))
    return Finding(
        title="How does it answer what it was not tuned on?",
        lede=f"Of {after['conversations']:,.0f} conversations that were held out, {after['tokens']:,.0f} tokens of "
        f"answers: perplexity {_change(before.get('perplexity'), after['perplexity'])}.",
        head=("On what was held out", "Before", "After"),
        rows=rows,
        aside="Perplexity is over what the assistant says alone. ROUGE-L is how much of the true answer stands in the "
        "model's own, in the same order.",
    )


def learned_from(run: Run) -> Finding | None:
    """The sources of the conversations, where there are several."""
    rows = [
        (str(source["name"]), *_source(source))
        for sources in run.part("learned_from").values()
        if len(sources) > 1
        for source in sources
    ]
    if not rows:
        return None
    return Finding(
        title="What it was tuned on",
        lede="The share is that of the tokens that it is trained on; by a weight it may differ from the source's size.",
        head=("", "Conversations", "Tokens", "Share"),
        rows=rows,
    )


def left_out(run: Run) -> Finding | None:
    """What could not be used of the data, by stage and reason."""
    rows = [
        (
            f"{STAGE_TITLES.get(stage, stage)}: {reason}",
            f"{found['count']:,} of {told['of']:,}",
            ", ".join(found["names"][:SHOWN]) + (", …" if found["count"] > SHOWN else ""),
        )
        for stage, told in run.part("left_out").items()
        for reason, found in told["reasons"].items()
    ]
    if not rows:
        return None
    return Finding(
        title="What was left out of the data",
        lede="None of this was trained on.",
        head=("", "How many", "Which"),
        rows=rows,
    )


def _source(source: Record) -> tuple[str, str, str]:
    return f"{source['conversations']:,}", formats.count(source["tokens"]), formats.percent(source["share"])


def _row(title: str, before: float | None, after: float, words: Callable[[float], str]) -> tuple[str, str, str]:
    return title, "" if before is None else words(before), words(after)


def _change(before: float | None, after: float) -> str:
    now = formats.significant(after)
    return now if before is None else f"{formats.significant(before)} before, {now} after"
