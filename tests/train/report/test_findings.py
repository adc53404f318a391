"""Findings on the page: what each says of its part of evals.json; a part that is missing or partial is no error."""

import re
from pathlib import Path
from typing import Any

import pytest

from vesalius.core.run_directory import RunDirectory
from vesalius.evals.alignment_tax import alignment_tax, as_evals
from vesalius.evals.diversity import diversity
from vesalius.evals.overoptimisation import best_of_n, summary
from vesalius.evals.reward_quality import pair_quality, score_quality, step_quality
from vesalius.train.report import write_report

PAIRS = {"learn": "pairs"} | pair_quality(
    [[2.0, 1.0], [0.5, 0.1], [0.0, 3.0], [4.0, -1.0]], [[5, 9], [8, 3], [4, 6], [7, 2]]
)
STEPS = {"separator": "\n"} | step_quality([[0.9, 0.2], [0.8, 0.9]], [[True, False], [True, True]])
SCORES = {"learn": "scores"} | score_quality([1.0, 2.0, 4.0], [1.5, 2.5, 3.0])
COLLAPSE = {
    "before": vars(diversity(["the cat sat on the mat", "four dogs ran", "we sang"])),
    "after": vars(diversity(["the cat sat on the mat"] * 3)),
}


def page_of(folder: Path, **evals: Any) -> str:
    """The visible words of the page of a finished run with these results."""
    run = RunDirectory.create(folder / "run", resume=True)
    run.add_evals(finished=True, **evals)
    text = write_report(run).read_text("utf-8")
    text = re.sub(r"</?(em|b)\b[^>]*>", "", text)
    bare = re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL)
    return " ".join(bare.replace("\u202f", " ").split())


def headings(folder: Path) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", (folder / "run" / "report.html").read_text("utf-8"))


def test_a_reward_model_is_told_by_its_held_out_pairs(tmp_path: Path) -> None:
    page = page_of(tmp_path, reward=PAIRS)
    assert "75 % of unseen pairs judged rightly: a model." in page
    assert (
        "Of 4 pairs that it has not seen, it gives the better answer the higher reward in 75 %; chance is 50 %." in page
    )
    assert headings(tmp_path) == [
        "Does it prefer the better answer?",
        "Is it as sure as it may be?",
        "Does it like length?",
    ]
    assert "The longer answer has the higher reward 75 %" in page
    assert "The longer answer is the better one 50 %" in page
    assert (tmp_path / "run" / "report.html").read_text("utf-8").count('<figure class="plot"') == 2


BEFORE = {"accuracy": 0.5, "likelier": 0.4, "margin": 0.0, "reward_chosen": 0.0, "reward_rejected": 0.0}
AFTER = {"accuracy": 0.875, "likelier": 0.6, "margin": 0.5, "reward_chosen": 0.2, "reward_rejected": -0.3}


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_preferences_are_told_before_and_after_with_the_kl(stage: str, tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", resume=True)
    for step in range(1, 9):
        run.log(kind="step", stage=stage, step=step, loss=0.6, tokens=step, **({"kl": 0.1} if stage == "kto" else {}))
    run.log(kind="validation", stage=stage, step=8, loss=0.5, **AFTER)
    kl = {"kl": 1.5, "standard_error": 0.25, "kl_per_token": 0.25, "answers": 9}
    page = page_of(
        tmp_path, **{stage: {"loss": "x", "beta": 0.1, "held_out": 40, "before": BEFORE, "after": AFTER, "kl": kl}}
    )
    assert "88 % of unseen" in page
    assert "Which answer does it prefer?" in headings(tmp_path)
    assert "it is 1.50 ± 0.25 nats from its reference, 0.25 a token" in page
    assert "Margin, better minus worse 0.00 0.50" in page
    text = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert text.count('<figure class="plot"') == (4 if stage == "kto" else 3)


def test_a_model_of_scores_is_told_beside_the_mean(tmp_path: Path) -> None:
    page = page_of(tmp_path, reward=SCORES)
    assert headings(tmp_path) == ["How near are its scores?"]
    assert "Mean squared error 0.50 That of always saying the mean 0.39 Correlation with the scores 0.93" in page


def test_a_process_reward_model_is_told_by_its_steps(tmp_path: Path) -> None:
    page = page_of(tmp_path, prm=STEPS)
    assert "100 % of unseen steps judged rightly" in page
    assert "Of 4 steps of 2 solutions that it has not seen, it judges 100 % rightly; always saying the same" in page
    assert headings(tmp_path) == ["Does it find the wrong step?", "Is it as sure as it may be?"]


def test_the_turn_of_the_gold_curve_is_told(tmp_path: Path) -> None:
    proxy = [[float(answer) for answer in range(8)]]
    gold = [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 4.0, 0.0]]
    points = best_of_n(proxy, gold, [1, 2, 4, 8])
    page = page_of(tmp_path, overoptimisation=summary(points, "best_of_n"))
    assert "Gold is highest at 0.19 nats; from there on the proxy rises by 2.00 and gold falls by 2.82." in page
    assert "n = 8 1.20 7.00 0.00" in page
    assert headings(tmp_path) == ["Is the reward still worth what it says?"]


def test_a_gold_curve_that_does_not_turn_is_told_too(tmp_path: Path) -> None:
    points = best_of_n([[0.0, 1.0, 2.0]], [[0.0, 1.0, 2.0]], [1, 3])
    assert "Gold was still rising at 0.43 nats." in page_of(tmp_path, overoptimisation=summary(points, "best_of_n"))


def test_collapse_and_tax_stand_before_and_after(tmp_path: Path) -> None:
    rows = as_evals(
        alignment_tax({"bits_per_byte": 1.0, "sums_accuracy": 0.2}, {"bits_per_byte": 1.1, "sums_accuracy": 0.5})
    )
    page = page_of(tmp_path, diversity=COLLAPSE, alignment_tax=rows)
    assert "Self-BLEU: 1 where all say the same 0.00 1.00" in page
    assert "1 of 2 became worse" in page
    assert "Bits per byte 1.000 1.100 +10 % worse Sums accuracy 0.200 0.500 +150 % not worse" in page


@pytest.mark.parametrize(
    "evals",
    [
        {},
        {"reward": {"learn": "pairs"}},
        {"prm": {"separator": "\n"}},
        {"overoptimisation": {"points": []}},
        {"diversity": {"before": {}}},
        {"alignment_tax": []},
    ],
)
def test_a_part_without_results_is_left_out(evals: dict[str, Any], tmp_path: Path) -> None:
    page_of(tmp_path, **evals)
    assert headings(tmp_path) == []


def test_an_interrupted_reward_run_does_not_promise_what_a_writer_is_measured_by(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.log(kind="step", stage="reward", step=1, tokens=10, loss=0.7, lr=1e-3, grad_norm=1.0, tok_per_s=5.0)
    run.log(kind="step", stage="reward", step=2, tokens=20, loss=0.6, lr=1e-3, grad_norm=1.0, tok_per_s=5.0)
    text = write_report(run).read_text("utf-8")
    assert "Reward model" in text
    assert "Still to come" not in text
    assert "nats per token" not in text
