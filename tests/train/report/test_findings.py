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
    "before": {"diversity": vars(diversity(["the cat sat on the mat", "four dogs ran", "we sang"]))},
    "after": {"diversity": vars(diversity(["the cat sat on the mat"] * 3))},
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
    assert "The longer answer is preferred 75 %" in page
    assert "Right where the better answer is the longer one 100 %" in page
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
    page = page_of(tmp_path, reward={"overoptimisation": summary(points, "best_of_n")})
    assert "Gold is highest at 0.19 nats; from there on the proxy rises by 2.00 and gold falls by 2.82." in page
    assert "Beginning: n = 1 0.00 3.50 2.38 Highest gold: n = 2 0.19 5.00 2.82 End: n = 8 1.20 7.00 0.00" in page
    assert headings(tmp_path) == ["Is the reward still worth what it says?"]


def test_a_gold_curve_that_does_not_turn_is_told_too(tmp_path: Path) -> None:
    points = best_of_n([[0.0, 1.0, 2.0]], [[0.0, 1.0, 2.0]], [1, 3])
    page = page_of(tmp_path, reward={"overoptimisation": summary(points, "best_of_n")})
    assert "What is optimised is the gold reward itself. Up to 0.43 nats gold does not turn" in page


def test_collapse_and_tax_stand_before_and_after(tmp_path: Path) -> None:
    rows = as_evals(
        alignment_tax({"bits_per_byte": 1.0, "sums_accuracy": 0.2}, {"bits_per_byte": 1.1, "sums_accuracy": 0.5})
    )
    page = page_of(tmp_path, ppo=COLLAPSE, alignment_tax=rows)
    assert "Self-BLEU: 1 where all say the same 0.00 1.00" in page
    assert "1 of 2 became worse" in page
    assert "Bits per byte 1.000 1.100 +10 % worse Sums accuracy 0.200 0.500 +150 % not worse" in page


@pytest.mark.parametrize(
    "evals",
    [
        {},
        {"reward": {"learn": "pairs"}},
        {"prm": {"separator": "\n"}},
        {"grpo": {"overoptimisation": {"method": "policy", "points": []}}},
        {"grpo": {"before": {"diversity": {}}}},
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


ANSWERS = {
    "before": {"perplexity": 21.5, "tokens": 900, "conversations": 40, "written": {"rouge_l": 0.2, "answers": 10}},
    "after": {"perplexity": 4.25, "tokens": 900, "conversations": 40, "written": {"rouge_l": 0.5, "answers": 10}},
}


def test_tuning_is_told_by_the_answers_that_were_held_out(tmp_path: Path) -> None:
    page = page_of(tmp_path, answers=ANSWERS)
    assert "A perplexity of 4.25 on unseen answers: a model." in page
    assert "Of 40 conversations that were held out, 900 tokens of answers: perplexity 21.5 before, 4.25 after." in page
    assert "ROUGE-L of the model's own answers 20 % 50 %" in page.replace("&#39;", "'")


def test_answers_that_were_measured_only_afterwards_are_told_alone(tmp_path: Path) -> None:
    after = {"perplexity": 4.25, "tokens": 900, "conversations": 40}
    page = page_of(tmp_path, answers={"after": after})
    assert "900 tokens of answers: perplexity 4.25." in page
    assert "ROUGE-L of the" not in page


def test_what_was_left_out_is_named_by_its_line(tmp_path: Path) -> None:
    names = [f"chat.jsonl:{line}" for line in range(10)]
    told = {"of": 60, "reasons": {"longer than 64 tokens": {"count": 12, "names": names}}}
    page = page_of(tmp_path, left_out={"sft": told, "dpo": {"of": 5, "reasons": {}}})
    assert headings(tmp_path) == ["What was left out of the data"]
    assert "Instruction tuning: longer than 64 tokens 12 of 60 chat.jsonl:0, chat.jsonl:1," in page
    assert "chat.jsonl:4, …" in page


def test_several_sources_are_told_with_their_shares(tmp_path: Path) -> None:
    one = {"name": "a.jsonl", "conversations": 1200, "tokens": 50_000, "share": 0.25}
    page = page_of(tmp_path, learned_from={"sft": [one, one | {"name": "b.jsonl", "share": 0.75}], "heads": [one]})
    assert "a.jsonl 1,200 50,000 25 % b.jsonl 1,200 50,000 75 %" in page


STUDENT = {
    "divergence": "jsd",
    "before": {"loss": 2.5, "agreement": 0.25},
    "after": {"loss": 0.5, "agreement": 0.75},
    "parameters": 90_000_000,
    "teacher": {"parameters": 135_000_000, "perplexity": 3.5},
}


def test_a_student_is_told_beside_its_teacher(tmp_path: Path) -> None:
    page = page_of(tmp_path, distill=STUDENT, answers=ANSWERS)
    assert "A student of 90.0 million parameters, 67 % of its teacher's" in page.replace("&#39;", "'").replace(
        "\xa0", " "
    )
    assert "both hold the same token to be the likeliest in 75 %." in page
    assert "JSD, nats a token 2.50 0.50" in page
    assert "Perplexity of the true answers 21.5 4.25 3.50" in page


def test_a_student_of_what_was_stored_has_no_teacher_to_be_compared_with(tmp_path: Path) -> None:
    found = {"divergence": "forward_kl", "before": {"loss": 2.5}, "after": {"loss": 2.0}}
    page = page_of(tmp_path, distill=found)
    assert "A student that learned from what a teacher once said." in page
    assert "Cross-entropy, nats a token 2.50 2.00" in page
    assert "likeliest token" not in page
