"""Pairs, ratings, scores and steps refuse a system message that the chat template would lose, as conversations do."""

from collections.abc import Callable

import pytest
from align.tiny_models import make_tokenizer

from vesalius.align.preference.pairs import encode_pairs
from vesalius.align.preference.ratings import encode_ratings
from vesalius.align.rows.answer_rows import Layout
from vesalius.align.scoring.items import pair_items, score_items, step_items
from vesalius.core.errors import UserError
from vesalius.data.preference import Pair, Rating, ScoredAnswer
from vesalius.data.solution import Solution
from vesalius.tokenizers.chat_template import CHATML
from vesalius.tokenizers.tokenizer import Tokenizer

DEAF = (
    "{% for m in messages if m.role != 'system' %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LAYOUT = Layout(rows=1, context=128, shared=True)
PROMPT = [{"role": "user", "content": "What is the sum?"}]
SYSTEM = [{"role": "system", "content": "Be brief."}, *PROMPT]
GOOD, BAD = ([{"role": "assistant", "content": text}] for text in ("It is three.", "It is not."))

Prompt = list[dict[str, str]]
ENCODED: dict[str, Callable[[list[Prompt], Tokenizer], object]] = {
    "pairs": lambda prompts, tokenizer: encode_pairs(
        [Pair(prompt, GOOD, BAD, f"row {i}", "") for i, prompt in enumerate(prompts)], tokenizer, LAYOUT
    ),
    "ratings": lambda prompts, tokenizer: encode_ratings(
        [Rating(prompt, GOOD, i == 0, f"row {i}", "") for i, prompt in enumerate(prompts)], tokenizer, LAYOUT
    ),
    "compared": lambda prompts, tokenizer: list(
        pair_items([Pair(prompt, GOOD, BAD, f"row {i}", "") for i, prompt in enumerate(prompts)], tokenizer)
    ),
    "scores": lambda prompts, tokenizer: list(
        score_items([ScoredAnswer(prompt, GOOD, 1.0, f"row {i}", "") for i, prompt in enumerate(prompts)], tokenizer)
    ),
    "steps": lambda prompts, tokenizer: list(
        step_items(
            [Solution(prompt, ("It is", "three."), (True, True), f"row {i}", "") for i, prompt in enumerate(prompts)],
            tokenizer,
            "\n",
        )
    ),
}


@pytest.mark.parametrize("kind", ENCODED)
def test_a_system_message_that_would_be_lost_is_told_with_its_row(kind: str):
    tokenizer = make_tokenizer(DEAF)
    ENCODED[kind]([PROMPT, PROMPT], tokenizer)
    with pytest.raises(
        UserError, match="row 1 has a system message, for which this model's chat template has no place"
    ):
        ENCODED[kind]([PROMPT, SYSTEM], tokenizer)


@pytest.mark.parametrize("kind", ENCODED)
def test_a_template_that_has_a_place_for_it_is_used(kind: str):
    ENCODED[kind]([SYSTEM, PROMPT], make_tokenizer(CHATML))
