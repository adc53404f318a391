"""A constitution is read or refused; critique, revision and comparison keep all that led to them."""

import pytest
from align.scripted import Scripted

from vesalius.align.making.constitution import Constitution, load_constitution
from vesalius.align.making.principle_pairs import PrinciplePairs, without_place
from vesalius.align.making.revisions import Revisions
from vesalius.align.writer import Answer
from vesalius.core.errors import UserError
from vesalius.data.prompts import prompt_of

PRINCIPLES = [
    {"name": name, "critique": f"{name}?", "revision": f"without {name}", "choice": f"less {name}?"}
    for name in ("harm", "haste", "pride")
]
CONSTITUTION = Constitution.model_validate({"principles": PRINCIPLES})
PROMPTS = [prompt_of(f"question {i}", f"p{i}") for i in range(12)]


def test_the_constitution_that_comes_along_has_principles_and_prompts():
    constitution = load_constitution(None)
    assert len(constitution.principles) >= 4
    assert len(set(constitution.prompts)) == len(constitution.prompts) >= 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("principles = []", "principles"),
        ("[[principles]]\nname = 'a'\ncritique = 'b'\nrevision = 'c'", "choice"),
        ("[[principles]]\nname = 'a'\ncritique = ''\nrevision = 'c'\nchoice = 'd'", "critique"),
        (
            "[[principles]]\nname = 'a'\ncritique = 'b'\nrevision = 'c'\nchoice = 'd'\nchioce = 'e'",
            "did you mean 'choice'",
        ),
        ("principles = [", "not valid TOML"),
        (2 * "[[principles]]\nname = 'a'\ncritique = 'b'\nrevision = 'c'\nchoice = 'd'\n", "two principles are called"),
    ],
)
def test_a_constitution_that_cannot_be_used_is_told(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_constitution(str(path))
    assert "mine.toml" in str(caught.value)
    with pytest.raises(UserError, match="no constitution at"):
        load_constitution(str(tmp_path / "none.toml"))


def echo(messages, seed):
    return f"said {len(messages)} to {messages[-1]['content']}"


def revisions(writer, **settings) -> list[dict]:
    return Revisions(writer=writer, model="m", constitution=CONSTITUTION, **settings)(PROMPTS)


def test_the_last_revision_is_what_is_learned_and_the_way_to_it_is_kept():
    writer = Scripted(echo)
    rows = revisions(writer, seed=3)
    used = set()
    for prompt, row in zip(PROMPTS, rows, strict=True):
        (round_,) = row["rounds"]
        principle = next(one for one in PRINCIPLES if one["name"] == round_["principle"])
        used.add(round_["principle"])
        question = prompt.messages[0]["content"]
        assert row["first_answer"] == f"said 1 to {question}"
        assert round_["critique"] == f"said 3 to {principle['critique']}"
        assert round_["revision"] == f"said 5 to {principle['revision']}"
        assert row["messages"] == [*prompt.messages, {"role": "assistant", "content": round_["revision"]}]
        assert (row["kept"], row["model"], row["seed"]) == (True, "m", 3)
    assert used == {"harm", "haste", "pride"}


def test_a_model_is_shown_its_answer_and_its_critique():
    writer = Scripted(echo)
    (row, *_) = revisions(writer)
    talk = next(asked for asked in writer.asked if len(asked) == 5)
    assert [message["role"] for message in talk] == ["user", "assistant", "user", "assistant", "user"]
    assert [talk[1]["content"], talk[3]["content"]] == [row["first_answer"], row["rounds"][0]["critique"]]


def test_the_next_round_revises_the_revision():
    rows = revisions(Scripted(echo), rounds=2)
    assert [len(row["rounds"]) for row in rows] == [2] * 12
    writer = Scripted(echo)
    row = revisions(writer, rounds=2)[0]
    answers = [asked[1]["content"] for asked in writer.asked if len(asked) == 3]
    assert row["rounds"][0]["revision"] in answers


@pytest.mark.parametrize("seed", [0, 1])
def test_principles_follow_from_the_seed(seed):
    first, again = (revisions(Scripted(echo), seed=seed) for _ in range(2))
    assert first == again
    other = revisions(Scripted(echo), seed=seed + 10)
    assert [row["rounds"][0]["principle"] for row in other] != [row["rounds"][0]["principle"] for row in first]


@pytest.mark.parametrize(
    ("length", "answer", "reason"),
    [
        (1, Answer("", True), "empty answer"),
        (1, Answer("x", False), "answer cut off"),
        (3, Answer("", True), "empty critique"),
        (5, Answer("x", False), "revision cut off"),
    ],
)
def test_what_did_not_end_is_not_learned(length, answer, reason):
    rows = revisions(Scripted(lambda messages, seed: answer if len(messages) == length else "fine"))
    assert {(row["kept"], row["dropped"]) for row in rows} == {(False, reason)}


def pairs(say, choice, **settings) -> list[dict]:
    writer = Scripted(say, choice)
    made = PrinciplePairs(writer=writer, judge=writer, model="m", judge_name="j", constitution=CONSTITUTION, **settings)
    return made(PROMPTS)


def numbered(messages, seed):
    return f"answer {seed}"


def likes(word: str):
    """A judge that finds the answer with the smaller number better, and besides likes whatever is called A."""

    def choice(text: str) -> list[float]:
        first, second = (int(part.split()[0]) for part in text.split("answer ")[1:3])
        odds = (3.0 if first < second else 1 / 3.0) * 5.0
        return [odds / (1 + odds), 1 / (1 + odds)]

    return choice


def test_the_better_answer_is_chosen_though_the_judge_likes_a_place():
    for row in pairs(numbered, likes("A")):
        assert int(row["chosen"].split()[1]) < int(row["rejected"].split()[1])
        assert row["probability"] == pytest.approx(0.75)
        assert (row["kept"], row["model"], row["judge"]) == (True, "m", "j")
        assert row["principle"] in {"harm", "haste", "pride"}
        assert set(row["by_order"]) == {"A first", "B first"}


def test_a_judge_that_likes_only_a_place_makes_no_pair():
    rows = pairs(numbered, lambda text: [0.9, 0.1])
    assert {(row["dropped"], round(row["probability"], 9)) for row in rows} == {("no clear choice", 0.5)}


def test_the_principle_is_what_the_judge_is_asked_by():
    asked: list[str] = []
    rows = pairs(numbered, lambda text: (asked.append(text), [0.6, 0.4])[1])
    for row, straight, turned in zip(rows, asked[::2], asked[1::2], strict=True):
        assert f"less {row['principle']}? Reply with A or B only." in straight
        assert straight.index(row["chosen"]) < straight.index(row["rejected"])
        assert turned.index(row["chosen"]) > turned.index(row["rejected"])


@pytest.mark.parametrize(
    ("say", "choice", "reason"),
    [
        (lambda messages, seed: "same", lambda text: [0.9, 0.1], "the same answer twice"),
        (lambda messages, seed: Answer(f"{seed}", False), lambda text: [0.9, 0.1], "answer cut off"),
        (lambda messages, seed: "", lambda text: [0.9, 0.1], "empty answer"),
        (numbered, lambda text: None, "too long to be compared"),
    ],
)
def test_a_pair_that_teaches_nothing_is_dropped_with_the_reason(say, choice, reason):
    assert {row["dropped"] for row in pairs(say, choice)} == {reason}


def test_a_place_s_odds_cancel():
    for odds, place in ((2.0, 1.0), (2.0, 9.0), (0.25, 30.0)):
        straight, turned = odds * place, place / odds
        shares = [[one / (1 + one), 1 / (1 + one)] for one in (straight, turned)]
        assert without_place(*shares) == pytest.approx(odds / (1 + odds))
