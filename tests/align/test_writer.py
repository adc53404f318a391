"""A writer gives what the language model gives, the same each time, and the model's own probabilities of choices."""

import math

import pytest
import torch
from tiny_server import byte_tokenizer, tiny_lm

from vesalius.align.writer import Answer, Question, Writer, seed_of
from vesalius.infer.language_model import LanguageModel


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    torch.manual_seed(0)
    return tiny_lm(byte_tokenizer())


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


QUESTIONS = [Question(asked("What is it? " * i), seed) for i, seed in enumerate((5, 6, 7), start=1)]


def test_answers_are_those_of_the_language_model_with_the_same_seed(lm):
    answers = Writer(lm.model, lm.tokenizer, max_tokens=12).write(QUESTIONS, temperature=1.0)
    for question, answer in zip(QUESTIONS, answers, strict=True):
        alone = lm.generate(question.messages, max_tokens=12, temperature=1.0, seed=question.seed)
        assert answer == Answer(alone.text.strip(), alone.finish_reason == "stop")


def test_the_same_call_gives_the_same_answers_whatever_was_asked_before(lm):
    writer = Writer(lm.model, lm.tokenizer, max_tokens=12)
    first = writer.write(QUESTIONS, temperature=1.0)
    writer.write(QUESTIONS[::-1], temperature=0.5)
    writer.choose([QUESTIONS[0].messages], ["A", "B"])
    assert writer.write(QUESTIONS, temperature=1.0) == first


def test_choices_have_the_model_s_probabilities(lm):
    """Against the log-probabilities that the language model tells: for one byte, and for several. Tolerance 1e-5:
    logits are float32, read in different company."""
    writer = Writer(lm.model, lm.tokenizer, max_tokens=1)
    prompts = [question.messages for question in QUESTIONS]
    for choices in (["A", "B"], ["yes", "no!"], ["0", "1", "2", "10"]):
        for messages, shares in zip(prompts, writer.choose(prompts, choices), strict=True):
            ids = lm.prompt_ids(messages)
            ends = [lm.tokenizer.encode(choice) for choice in choices]
            logprobs = [sum(lm.score(ids + end)[len(ids) - 1 :]) for end in ends]
            expected = [math.exp(one) / sum(map(math.exp, logprobs)) for one in logprobs]
            assert shares == pytest.approx(expected, rel=1e-5)


def test_a_choice_that_is_not_among_the_likeliest_tokens_is_read(lm, monkeypatch):
    writer = Writer(lm.model, lm.tokenizer, max_tokens=1)
    expected = writer.choose([QUESTIONS[0].messages], ["A", "B"])[0]
    monkeypatch.setattr("vesalius.align.writer.LIKELIEST", 1)
    assert writer.choose([QUESTIONS[0].messages], ["A", "B"])[0] == pytest.approx(expected, rel=1e-5)


def test_what_leaves_no_room_has_no_answer(lm):
    writer = Writer(lm.model, lm.tokenizer, max_tokens=12)
    long = asked("x" * 600)
    short, cut = writer.write([QUESTIONS[0], Question(long, 1)], temperature=1.0)
    assert cut == Answer("", False)
    assert short == writer.write([QUESTIONS[0]], temperature=1.0)[0]
    assert writer.choose([long], ["A", "B"]) == [None]


def test_seeds_follow_from_what_they_are_for():
    assert seed_of(0, "a", "b") == seed_of(0, "a", "b")
    assert len({seed_of(0, "a"), seed_of(1, "a"), seed_of(0, "b"), seed_of(0, "a", "")}) == 4
    assert 0 <= seed_of("x") < 2**63
