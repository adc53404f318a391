"""Perplexity is that of each answer alone, token by token; written answers are those that a user gets."""

import json
import math

import pytest
import torch
from align.talks import talk, talks
from align.tiny_models import make_tokenizer, model_for

from vesalius.data.conversation import Conversation
from vesalius.evals.answers import EXAMPLES, answer_perplexity, written_answers
from vesalius.evals.rouge import rouge_l
from vesalius.infer.language_model import LanguageModel
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.chat import encode_chat
from vesalius.tokenizers.tokenizer import Tokenizer

TALKS = [*talks(20), talk(3, system="Be brief.")]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    return model_for(tokenizer).eval()


def surprises(model: Transformer, tokenizer: Tokenizer, conversation: Conversation) -> list[float]:
    """Of every token that the assistant says, in the plainest way."""
    chat = encode_chat(tokenizer, conversation.messages)
    with torch.no_grad():
        log_p = model(torch.tensor([chat.ids])).double().log_softmax(-1)[0]
    return [
        -log_p[place - 1, token].item()
        for place, (token, said) in enumerate(zip(chat.ids, chat.assistant_mask, strict=True))
        if said
    ]


def test_perplexity_is_that_of_each_answer_alone(model: Transformer, tokenizer: Tokenizer) -> None:
    """To 1e-5: batches add up in another order."""
    alone = [surprises(model, tokenizer, conversation) for conversation in TALKS]
    nats = sum(map(sum, alone)) / sum(map(len, alone))
    found = answer_perplexity(model, tokenizer, TALKS)
    assert found["nats"] == pytest.approx(nats, abs=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats), rel=1e-5)
    assert (found["tokens"], found["conversations"]) == (sum(map(len, alone)), len(TALKS))


def test_the_standard_error_is_that_of_conversations(model: Transformer, tokenizer: Tokenizer) -> None:
    """Of conversations of the same length it is the plain one of their means."""
    alike = [talk(number, f"It is {number}.") for number in range(10, 30)]
    means = [sum(found) / len(found) for found in (surprises(model, tokenizer, one) for one in alike)]
    spread = torch.tensor(means).std(correction=0).item()
    assert answer_perplexity(model, tokenizer, alike)["standard_error"] == pytest.approx(
        spread / math.sqrt(len(alike)), rel=1e-4
    )


def test_what_is_longer_than_the_context_is_not_measured(tokenizer: Tokenizer) -> None:
    small = model_for(tokenizer, max_position_embeddings=48).eval()
    found = answer_perplexity(small, tokenizer, [talk(1), talk(2, "never " * 48)])
    assert found["conversations"] == 1
    assert answer_perplexity(small, tokenizer, [talk(2, "never " * 48)]) == {}


def test_written_answers_are_greedy_and_compared_with_the_last_turn(model: Transformer, tokenizer: Tokenizer) -> None:
    longer = Conversation([*TALKS[4].messages, *TALKS[5].messages], "longer", "x")
    conversations = [*TALKS[:4], longer]
    found = written_answers(model, tokenizer, conversations, max_tokens=8)
    lm, scores = LanguageModel(model, tokenizer), []
    for conversation, example in zip(conversations, found["examples"], strict=True):
        expected = lm.generate(conversation.messages[:-1], max_tokens=8, temperature=0.0).text
        reference = conversation.messages[-1]["content"]
        scores.append(rouge_l(reference, expected).f1)
        assert (example["answer"], example["reference"]) == (expected, reference)
        assert example["question"] == conversation.messages[-2]["content"]
    assert found["rouge_l"] == pytest.approx(sum(scores) / len(scores))
    assert found["answers"] == len(conversations)
    assert json.loads(json.dumps(found)) == found


def test_a_model_that_says_the_truth_has_the_highest_score(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {tuple(encode_chat(tokenizer, one.messages[:-1], add_generation_prompt=True).ids): one for one in TALKS[:8]}

    def truth(engine, sequence):
        sequence.ids = tokenizer.encode(said[tuple(sequence.prompt)].messages[-1]["content"])

    monkeypatch.setattr("vesalius.evals.answers.Engine.run", truth)
    found = written_answers(model, tokenizer, TALKS[:8], max_tokens=8)
    assert (found["rouge_l"], found["standard_error"]) == (1.0, 0.0)
    assert len(found["examples"]) == EXAMPLES


def test_what_has_no_prompt_or_no_room_is_not_asked(model: Transformer, tokenizer: Tokenizer) -> None:
    silent = Conversation([{"role": "assistant", "content": "Hello"}], "silent", "x")
    small = model_for(tokenizer, max_position_embeddings=16).eval()
    assert written_answers(model, tokenizer, [silent], max_tokens=8) == {}
    assert written_answers(small, tokenizer, TALKS[:2], max_tokens=8) == {}
