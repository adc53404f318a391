"""Samples: what the model writes, with how likely it found each piece, for a person to read.

The probability is the model's own, before temperature. A character that several tokens spell is one piece, with the
product of their probabilities. End tokens have no text and are left out: the finish reason tells of them.
"""

import math
from collections.abc import Sequence
from typing import Any

from vesalius.infer.detokenize import Detokenizer
from vesalius.infer.language_model import Completion, LanguageModel, Message
from vesalius.tokenizers.tokenizer import Tokenizer


def sample_report(
    lm: LanguageModel,
    prompts: Sequence[str | list[Message]],
    *,
    stage: str,
    max_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One record a prompt: {"stage", "prompt", "tokens": [{"text", "probability"}], "finish_reason"}, as in evals.json.

    A prompt is a text to go on with, or messages to answer; of messages the record shows the last. Greedy unless a
    `temperature` is given. UserError where a prompt does not fit into the model's context.
    """
    completions = [lm.generate(prompt, max_tokens=max_tokens, temperature=temperature, seed=seed) for prompt in prompts]
    return [
        {
            "stage": stage,
            "prompt": prompt if isinstance(prompt, str) else prompt[-1]["content"],
            "tokens": pieces(completion, lm.tokenizer),
            "finish_reason": completion.finish_reason,
        }
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def pieces(completion: Completion, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The text of a completion cut where its tokens end, each piece with its probability. Joined, they are the text."""
    detokenizer = Detokenizer(tokenizer)
    special = set(tokenizer.special_tokens.values())
    found: list[dict[str, Any]] = []
    logprob = 0.0
    for token, its_logprob in zip(completion.ids, completion.logprobs, strict=True):
        if token in special:
            continue
        logprob += its_logprob
        if text := detokenizer.push(token):
            found.append({"text": text, "probability": math.exp(logprob)})
            logprob = 0.0
    if tail := detokenizer.close():
        found.append({"text": tail, "probability": math.exp(logprob)})
    return found
