"""How well a model answers what it was not tuned on: how likely it finds the true answers, and what it writes itself.

    perplexity   exp of the mean surprise, in nats, of what the assistant says in held-out conversations, ends of turn
                 included; prompts do not count
    ROUGE-L      of its own greedy answer to everything before the last turn, against that turn (rouge.py)

The first is smooth and tells small differences, the second is what a user sees. The standard error of the perplexity's
logarithm takes conversations as drawn, not tokens: the words of one answer hang together (the ratio estimator's:
Cochran 1977, "Sampling Techniques", section 6.3).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vesalius.data.conversation import Conversation
from vesalius.evals.rouge import rouge_l
from vesalius.infer.engine import Engine
from vesalius.infer.params import SamplingParams
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.chat import ChatIds, encode_chat
from vesalius.tokenizers.tokenizer import Tokenizer
from vesalius.train.head_chunks import chunks

_ROWS = 16
"""Conversations that are read at once."""

EXAMPLES = 5


def answer_perplexity(
    model: Transformer, tokenizer: Tokenizer, conversations: Sequence[Conversation]
) -> dict[str, float]:
    """{"perplexity", "nats" a token, their "standard_error", "tokens", "conversations"} over what the assistant says.

    Conversations that are longer than the model's context are left out; {} where none is left.
    """
    chats = [encode_chat(tokenizer, conversation.messages) for conversation in conversations]
    chats = [chat for chat in chats if len(chat.ids) <= model.config.max_position_embeddings]
    chats.sort(key=lambda chat: len(chat.ids))  # little padding in each batch
    parts = [_surprise(model, chats[start : start + _ROWS]) for start in range(0, len(chats), _ROWS)]
    if not parts:
        return {}
    sums, counts = np.concatenate(parts, axis=1)  # (conversations,) each
    nats = sums.sum() / counts.sum()
    error = math.sqrt(((sums - nats * counts) ** 2).sum()) / counts.sum()
    return {
        "perplexity": math.exp(nats),
        "nats": float(nats),
        "standard_error": error,
        "tokens": int(counts.sum()),
        "conversations": len(chats),
    }


def written_answers(
    model: Transformer, tokenizer: Tokenizer, conversations: Sequence[Conversation], *, max_tokens: int
) -> dict[str, Any]:
    """{"rouge_l", its "standard_error", "answers", "examples"} of greedy answers to all but the last assistant turn.

    Prompts that leave no room for an answer are left out; {} where none is left.
    """
    asked = [found for conversation in conversations if (found := _last_turn(conversation)) is not None]
    engine = Engine(model, tokenizer.eos_ids)
    answered = []
    for prompt, reference in asked:
        ids = encode_chat(tokenizer, prompt, add_generation_prompt=True).ids
        room = min(max_tokens, engine.context - len(ids))
        if room > 0:
            [sequence] = engine.add(ids, SamplingParams(max_tokens=room, temperature=0.0))
            answered.append((prompt[-1]["content"], reference, sequence))
    scored = []
    for question, reference, sequence in answered:
        engine.run(sequence)
        answer = tokenizer.decode([token for token in sequence.ids if token not in engine.eos_ids])
        score = rouge_l(reference, answer).f1
        scored.append({"question": question, "reference": reference, "answer": answer, "rouge_l": score})
    if not scored:
        return {}
    scores = np.array([example["rouge_l"] for example in scored])
    spread = float(scores.std(ddof=1)) if len(scores) > 1 else 0.0
    return {
        "rouge_l": float(scores.mean()),
        "standard_error": spread / math.sqrt(len(scores)),
        "answers": len(scores),
        "examples": scored[:EXAMPLES],
    }


@torch.inference_mode()
def _surprise(model: Transformer, chats: Sequence[ChatIds]) -> np.ndarray:
    """(2, B): of each conversation the nats of what the assistant says, and in how many tokens."""
    longest, device = max(len(chat.ids) for chat in chats), next(model.parameters()).device
    tokens = torch.zeros(len(chats), longest, dtype=torch.int64)  # (B, T): no answer sees the padding to its right
    said = torch.zeros(len(chats), longest, dtype=torch.bool)  # (B, T)
    for row, chat in enumerate(chats):
        tokens[row, : len(chat.ids)] = torch.tensor(chat.ids)
        said[row, : len(chat.ids)] = torch.tensor(chat.assistant_mask)
    tokens, said = tokens.to(device), said[:, 1:].to(device)
    hidden = model.model(tokens[:, :-1])[said]  # (N, D)
    nats = _cross_entropies(model, hidden, tokens[:, 1:][said])
    rows = torch.zeros(said.shape, device=device).masked_scatter(said, nats).sum(1)
    return torch.stack((rows, said.sum(1))).double().cpu().numpy()


def _cross_entropies(model: Transformer, hidden: Tensor, targets: Tensor) -> Tensor:
    """hidden (N, D), targets (N,) -> (N,), the logits of a few rows at a time."""
    return torch.cat(
        [
            F.cross_entropy(model.logits(hidden[part]), targets[part], reduction="none")
            for part in chunks(len(hidden), model.config.vocab_size)
        ]
    )


def _last_turn(conversation: Conversation) -> tuple[list[dict[str, str]], str] | None:
    """What stands before the last thing that the assistant says, and that; None where nothing stands before it."""
    places = [place for place, message in enumerate(conversation.messages) if message["role"] == "assistant"]
    if not places or not places[-1]:
        return None
    return conversation.messages[: places[-1]], conversation.messages[places[-1]]["content"]
