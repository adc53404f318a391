"""Best of n, STaR and self-rewarding keep what was checked or marked, with all that was sampled."""

import pytest
from align.scripted import Scripted

from vesalius.align.making.rejection import HINT, REASONS, BestOfN, Star
from vesalius.align.making.self_rewarding import MARKS, SelfRewarding, mean_mark
from vesalius.align.rewards.compose import build_reward
from vesalius.align.rewards.verdict import Verdict
from vesalius.align.writer import Answer
from vesalius.data.prompts import prompt_of
from vesalius.data.task import Task

VERIFIED = build_reward({"verified": 1.0})


def task(number: int, answer: str = "") -> Task:
    prompt = [{"role": "user", "content": f"What is {number}?"}]
    return Task(messages=prompt, kind="number", name=f"t{number}", split_key=str(number), answer=answer or str(number))


TASKS = [task(i) for i in range(10, 16)]


def best_of(say, reward=VERIFIED, **settings) -> list[dict]:
    return BestOfN(writer=Scripted(say), reward=reward, model="m", **settings)(TASKS)


def test_the_best_answer_is_learned_and_all_are_kept_with_their_rewards():
    rows = best_of(lambda messages, seed: f"It is {10 + seed % 6}.", samples=12, seed=1)
    assert sum(row["kept"] for row in rows) >= 3
    for one, row in zip(TASKS, rows, strict=True):
        right = [sample for sample in row["samples"] if sample["text"] == f"It is {one.answer}."]
        assert all(sample["reward"] == (sample in right) for sample in row["samples"])
        assert row["kept"] == bool(right)
        assert len({sample["reason"] for sample in row["samples"]}) > 1
        if right:
            assert row["messages"] == [*one.messages, {"role": "assistant", "content": f"It is {one.answer}."}]


def test_of_equal_answers_the_shortest_is_learned():
    rows = best_of(lambda messages, seed: "so " * (seed % 5) + messages[0]["content"][8:-1], samples=8)
    for row in rows:
        assert len(row["messages"][-1]["content"]) == min(len(sample["text"]) for sample in row["samples"])


def test_an_answer_that_was_cut_off_is_worth_nothing():
    rows = best_of(lambda messages, seed: Answer(messages[0]["content"][8:-1], False))
    assert {row["dropped"] for row in rows} == {"no answer is good enough"}
    assert {sample["reward"] for row in rows for sample in row["samples"]} == {0.0}


def test_how_good_is_good_enough_can_be_told():
    def half(task: Task, completion: str) -> Verdict:
        return Verdict(0.5, "half")

    for least, kept in ((0.5, True), (0.6, False)):
        assert {row["kept"] for row in best_of(lambda m, s: "x", half, least=least)} == {kept}


def star(say, tasks=TASKS, **settings) -> tuple[list[dict], Scripted]:
    writer = Scripted(say)
    return Star(writer=writer, reward=VERIFIED, model="m", **settings)(tasks), writer


def knows_with_hint(messages, seed):
    """Knows even numbers, and all where they are told; the number 15 never."""
    text = messages[-1]["content"]
    number = int(text[8:10])
    knows = number % 2 == 0 or (number != 15 and "The answer is" in text)
    return f"It must be {number if knows else 0}."


def test_reasons_are_asked_for_and_a_hint_is_given_only_where_they_fail():
    rows, writer = star(knows_with_hint)
    assert [row["kept"] for row in rows] == [True, True, True, True, True, False]
    assert [row["hinted"] for row in rows] == [False, True, False, True, False, True]
    assert rows[-1]["dropped"] == "wrong, with a hint too"
    ends = [messages[-1]["content"].partition("\n\n")[2] for messages in writer.asked]
    assert ends == [REASONS] * 6 + [HINT.format(answer=number) for number in (11, 13, 15)]


def test_what_is_learned_has_no_hint_in_its_prompt():
    rows, _ = star(knows_with_hint)
    for one, row in zip(TASKS, rows, strict=True):
        assert row["messages"][:-1] == one.messages
        assert row["messages"][-1]["content"] == row["tried"][-1]["text"]
        assert len(row["tried"]) == 1 + row["hinted"]


def test_without_rationalisation_wrong_answers_are_dropped():
    rows, writer = star(knows_with_hint, rationalise=False)
    assert [row["dropped"] for row in rows] == ["", "wrong"] * 3
    assert len(writer.asked) == 6


def test_a_task_without_an_answer_to_tell_gets_no_hint():
    schema = Task(messages=TASKS[0].messages, kind="json", name="s", split_key="s", schema={"type": "integer"})
    rows, writer = star(lambda messages, seed: "none", [schema])
    assert (rows[0]["dropped"], len(writer.asked)) == ("wrong", 1)


PROMPTS = [prompt_of(f"question {i}", f"p{i}") for i in range(5)]


def sure_of(mark: int) -> list[float]:
    return [float(i == mark) for i in range(len(MARKS))]


def marked(say, choice, **settings) -> list[dict]:
    return SelfRewarding(writer=Scripted(say, choice), model="m", **settings)(PROMPTS)


def test_the_best_answer_is_preferred_to_the_worst():
    def mark(text: str) -> list[float]:
        return sure_of(int(text.partition("\n\nAnswer: ")[2].split()[1]) % 6)

    for row in marked(lambda messages, seed: f"answer {seed}", mark, samples=6):
        marks = [sample["mark"] for sample in row["samples"]]
        by_text = {sample["text"]: sample["mark"] for sample in row["samples"]}
        assert (by_text[row["chosen"]], by_text[row["rejected"]]) == (max(marks), min(marks))
        assert row["kept"] == (max(marks) - min(marks) >= 0.1)
        assert row["prompt"][0]["content"].startswith("question")


@pytest.mark.parametrize(
    ("say", "choice", "reason"),
    [
        (lambda messages, seed: f"{seed}", lambda text: sure_of(3), "no answer is clearly better"),
        (lambda messages, seed: Answer(f"{seed}", False), lambda text: sure_of(3), "fewer than two answers that ended"),
        (lambda messages, seed: f"{seed}", lambda text: None, "fewer than two answers that ended"),
        (lambda messages, seed: "", lambda text: sure_of(3), "fewer than two answers that ended"),
    ],
)
def test_what_makes_no_pair_is_dropped_with_the_reason(say, choice, reason):
    rows = marked(say, choice)
    assert {(row["kept"], row["dropped"]) for row in rows} == {(False, reason)}


def test_a_mark_is_the_mean_of_what_the_model_finds_likely():
    assert mean_mark(sure_of(4)) == 4
    assert mean_mark([0.5, 0, 0, 0, 0, 0.5]) == 2.5
    assert mean_mark(None) is None
