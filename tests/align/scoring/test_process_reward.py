"""Steps are judged where they end, and a solution is as good as its steps together."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vesalius.align.scoring.model import STEPS, ScoringModel
from vesalius.align.scoring.process_reward import aggregate, encode_steps, score_steps
from vesalius.core.errors import UserError
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.chat import encode_chat
from vesalius.tokenizers.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_bpe(train_bpe(["What is the sum of the two? It is three. " * 3], 275))
PROMPT = [{"role": "user", "content": "sum?"}]


def model(labels: int) -> ScoringModel:
    sizes = {"vocab_size": 275, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return ScoringModel.on(Transformer(ModelConfig.from_dict(sizes), seed=1), labels, seed=2).eval()


@pytest.mark.parametrize("separator", ["\n", "\n\n", " the sum "])
def test_every_step_is_encoded_alone_and_ends_with_the_separator(separator: str) -> None:
    encoded = encode_steps(TOKENIZER, PROMPT, ["It is", "three."], separator)
    between = TOKENIZER.encode(separator, after="text")
    assert encoded.prompt == encode_chat(TOKENIZER, PROMPT, add_generation_prompt=True).ids
    first, second = (TOKENIZER.encode(step, after="text") + between for step in ("It is", "three."))
    assert encoded.answer == first + second
    assert encoded.ends == [len(first) - 1, len(first) + len(second) - 1]


def test_a_separator_that_is_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="the separator '' is no token"):
        encode_steps(TOKENIZER, PROMPT, ["a"], "")


def test_a_step_is_judged_without_those_that_follow() -> None:
    head = model(STEPS)
    steps = ["It is two", "the sum", "three."]
    whole = score_steps(head, encode_steps(TOKENIZER, PROMPT, steps, "\n"))
    for count in (1, 2, 3):
        beginning = encode_steps(TOKENIZER, PROMPT, steps[:count], "\n")
        logits = head(torch.tensor([beginning.prompt + beginning.answer]))[0, -1]
        torch.testing.assert_close(whole[count - 1], (logits[1] - logits[0]).sigmoid(), atol=1e-6, rtol=1e-5)
    assert not whole.requires_grad


def test_only_a_head_of_two_labels_judges_steps() -> None:
    with pytest.raises(ValueError, match="steps need a head of two labels, got 1"):
        score_steps(model(1), encode_steps(TOKENIZER, PROMPT, ["a"], "\n"))


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8))
def test_a_solution_is_as_good_as_its_steps_together(steps: list[float]) -> None:
    product = 1.0
    for step in steps:
        product *= step
    assert aggregate(torch.tensor(steps)).item() == pytest.approx(product, rel=1e-5, abs=1e-30)
    assert aggregate(torch.tensor(steps), "minimum").item() == min(steps)
    both = aggregate(torch.tensor([steps, [1.0] * len(steps)]), "minimum")
    assert both.tolist() == [min(steps), 1.0]
