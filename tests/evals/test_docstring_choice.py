"""The right description among four: chance is exact, knowledge is found, and batching changes no score."""

import math

import pytest
import torch
from torch import Tensor

from vesalius.data.docstrings import ModuleName, source_members
from vesalius.data.python_questions import Topic, python_topics
from vesalius.data.split import is_validation
from vesalius.evals.docstring_choice import (
    NEUTRAL_QUESTION,
    Quartet,
    answer_log_likelihoods,
    choose_quartets,
    docstring_choice,
    score_quartets,
)
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.chat import encode_chat
from vesalius.tokenizers.tokenizer import Tokenizer

FRACTION = 0.5
QUARTETS = [
    Quartet(
        tuple(f"What does `f{i}` do?" for i in range(start, start + 4)),
        tuple(f"It returns {'x' * (i % 4)}{i}." for i in range(start, start + 4)),
    )
    for start in range(0, 20, 4)
]
RIGHT = {pair for quartet in QUARTETS for pair in zip(quartet.questions, quartet.answers, strict=True)}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_bpe(train_bpe(["What does it do? It returns the sum. user assistant " * 3], 290))


@pytest.fixture(scope="module")
def transformer(tokenizer: Tokenizer) -> Transformer:
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=128,
    )  # fmt: skip
    return Transformer(config).eval()


def library(modules: int = 40, functions: int = 6) -> list[Topic]:
    """Functions `m0.f0`, … with descriptions of about one length; `g` of each module is described alike everywhere."""
    topics: list[Topic] = []
    for module in range(modules):
        source = "".join(
            f'def f{i}():\n    """Return the value number {module * 100 + i} of the module."""\n'
            for i in range(functions)
        )
        source += 'def g():\n    """Return what every module returns."""\n'
        topics += python_topics(source_members(ModuleName(f"m{module}", f"m{module}"), source))
    return topics


def read_dialogue(ids: list[int], tokenizer: Tokenizer) -> tuple[str, str]:
    _, user, assistant, *_ = tokenizer.decode(ids).split("<|im_start|>")
    return tuple(turn.partition("\n")[2].partition("<|im_end|>")[0] for turn in (user, assistant))


def test_who_ignores_the_question_gets_exactly_a_quarter(tokenizer: Tokenizer) -> None:
    favourites = torch.randn(tokenizer.vocab_size, generator=torch.Generator().manual_seed(0))

    def one_distribution(tokens: Tensor, positions: Tensor | None) -> Tensor:
        return favourites.expand(*tokens.shape, -1)

    result = score_quartets(one_distribution, tokenizer, QUARTETS)
    assert result == {"accuracy": 0.25, "n": 20, "standard_error": 0.0}


def test_who_knows_the_answers_gets_all_right(tokenizer: Tokenizer) -> None:
    def knowing(tokens: Tensor, positions: Tensor | None) -> Tensor:
        following = torch.nn.functional.one_hot(tokens.roll(-1, 1), tokenizer.vocab_size).float()
        known = [read_dialogue(row, tokenizer) in RIGHT for row in tokens.tolist()]
        return following * torch.tensor(known).view(-1, 1, 1)

    assert score_quartets(knowing, tokenizer, QUARTETS)["accuracy"] == 1.0


def test_an_answer_that_is_likely_after_any_question_is_not_preferred(tokenizer: Tokenizer) -> None:
    """The first answer of each quartet is likely everywhere; the right one is a little likelier after its question."""

    def biased(tokens: Tensor, positions: Tensor | None) -> Tensor:
        following = torch.nn.functional.one_hot(tokens.roll(-1, 1), tokenizer.vocab_size).float()
        pairs = [read_dialogue(row, tokenizer) for row in tokens.tolist()]
        favourites = {quartet.answers[0] for quartet in QUARTETS}
        bonus = [3.0 * (answer in favourites) + ((question, answer) in RIGHT) for question, answer in pairs]
        return following * torch.tensor(bonus).view(-1, 1, 1)

    assert score_quartets(biased, tokenizer, QUARTETS)["accuracy"] == 1.0


def test_scores_are_the_answers_log_probabilities(tokenizer: Tokenizer, transformer: Transformer) -> None:
    """Against one unpadded sequence at a time in float64; tolerance 1e-4 for float32 logits of some thirty tokens."""
    dialogues = [
        (question, answer) for q in QUARTETS for question in (*q.questions, NEUTRAL_QUESTION) for answer in q.answers
    ]
    scores = answer_log_likelihoods(transformer, tokenizer, dialogues)
    for (question, answer), score in list(zip(dialogues, scores, strict=True))[::9]:
        chat = encode_chat(tokenizer, [{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
        with torch.no_grad():
            log_probabilities = transformer(torch.tensor([chat.ids]))[0].double().log_softmax(-1)
        expected = sum(
            log_probabilities[i - 1, token].item()
            for i, (token, said) in enumerate(zip(chat.ids, chat.assistant_mask, strict=True))
            if said
        )
        assert math.isclose(score, expected, abs_tol=1e-4)


def test_the_standard_error_is_that_of_the_quartets(tokenizer: Tokenizer) -> None:
    """Two quartets all right, three at chance: accuracies 1, 1, .25, .25, .25."""
    known = {pair for quartet in QUARTETS[:2] for pair in zip(quartet.questions, quartet.answers, strict=True)}

    def half_knowing(tokens: Tensor, positions: Tensor | None) -> Tensor:
        following = torch.nn.functional.one_hot(tokens.roll(-1, 1), tokenizer.vocab_size).float()
        bonus = [float(read_dialogue(row, tokenizer) in known) for row in tokens.tolist()]
        return following * torch.tensor(bonus).view(-1, 1, 1)

    result = score_quartets(half_knowing, tokenizer, QUARTETS)
    assert result["accuracy"] == pytest.approx(0.55)
    assert result["standard_error"] == pytest.approx(torch.tensor([1, 1, 0.25, 0.25, 0.25]).std().item() / 5**0.5)


def test_the_result_has_both_sides_and_the_chance_level(tokenizer: Tokenizer, transformer: Transformer) -> None:
    result = docstring_choice(transformer, tokenizer, library(), validation_fraction=FRACTION, n=16)
    assert result["chance"] == 0.25
    for side in ("seen", "unseen"):
        assert result[side]["n"] == 16
        assert 0 <= result[side]["accuracy"] <= 1


def test_a_side_without_members_is_left_out(tokenizer: Tokenizer, transformer: Transformer) -> None:
    result = docstring_choice(transformer, tokenizer, library(), validation_fraction=0.0, n=8)
    assert set(result) == {"seen", "chance"}


def test_quartets_keep_to_their_side_of_the_split() -> None:
    sides = choose_quartets(library(), FRACTION, n=80, seed=0)
    for side, quartets in sides.items():
        assert len(quartets) == 20
        modules = {question.split("`")[1].split(".")[0] for quartet in quartets for question in quartet.questions}
        assert {is_validation(module, FRACTION) for module in modules} == {side == "unseen"}


def test_a_quartet_is_of_four_modules_and_four_answers() -> None:
    for quartets in choose_quartets(library(), FRACTION, n=200, seed=0).values():
        for quartet in quartets:
            assert len({question.split(".")[0] for question in quartet.questions}) == 4
            assert len(set(quartet.answers)) == 4


def test_a_description_that_is_on_both_sides_is_not_asked() -> None:
    sides = choose_quartets(library(), FRACTION, n=1000, seed=0)
    answers = {answer for quartets in sides.values() for quartet in quartets for answer in quartet.answers}
    assert answers
    assert "It returns what every module returns." not in answers


def test_the_seed_and_nothing_else_decides_the_quartets() -> None:
    first, same, other = (choose_quartets(library(), FRACTION, n=20, seed=seed) for seed in (0, 0, 1))
    assert first == same
    assert first != other


def test_answers_of_a_quartet_are_of_nearly_one_length() -> None:
    topics = [topic for length in (1, 10, 20) for topic in stretched(length)]
    for quartets in choose_quartets(topics, FRACTION, n=200, seed=0).values():
        spreads = [max(map(len, quartet.answers)) - min(map(len, quartet.answers)) for quartet in quartets]
        assert sum(spread > 10 for spread in spreads) <= 2  # where one length ends and the next begins


def stretched(words: int) -> list[Topic]:
    return [
        topic
        for module in range(30)
        for topic in python_topics(
            source_members(
                ModuleName(f"m{module}", f"m{module}"),
                f'def f{words}():\n    """Return {"very " * words}many things of number {module + 10}."""',
            )
        )
    ]
