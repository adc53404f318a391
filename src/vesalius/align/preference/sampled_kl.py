"""How far a policy has gone from its reference, by answers of its own.

    KL(π ‖ ρ) = the mean of log π(y|x) - log ρ(y|x) over y drawn from π

Only the policy's own answers say it. On the answers of a data set the same mean is no KL, and may be below 0. The mean
over n samples is unbiased; Schulman 2020, "Approximating KL Divergence", calls it k1.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from vesalius.align.reference import Reference
from vesalius.align.rows.answer_rows import Item, Layout, item_length, lay_out
from vesalius.align.rows.answers import answer_logprobs
from vesalius.align.rows.packing import pack
from vesalius.align.rows.spans import Ids
from vesalius.infer.engine import Engine
from vesalius.infer.params import SamplingParams
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.tokenizer import Tokenizer


def sampled_kl(
    model: Transformer,
    reference: Reference,
    tokenizer: Tokenizer,
    prompts: Sequence[Ids],
    layout: Layout,
    *,
    max_tokens: int,
    seed: int = 0,
) -> dict[str, float]:
    """One answer to each prompt, at temperature 1 -> "kl" and its "standard_error", nats an answer; "kl_per_token"; and
    how many "answers". Prompts that leave no room for an answer are passed over; {} where none is left.
    """
    model.eval()
    items = sample(model, tokenizer, [ids for ids in prompts if len(ids) < layout.context], layout, max_tokens, seed)
    if not items:
        return {}
    differences: list[float] = []
    lengths = [item_length(len(item.prompt), [len(ids) for ids, _ in item.answers], layout) for item in items]
    rows = pack(range(len(items)), lengths, layout.context)
    with torch.no_grad():
        for start in range(0, len(rows), layout.rows):
            part = [[items[number] for number in row] for row in rows[start : start + layout.rows]]
            batch = lay_out(part, layout, padding=0, source="samples").to(next(model.parameters()).device)
            differences += (answer_logprobs(model, batch).sums - reference(model, batch)).tolist()
    tokens = sum(len(ids) for item in items for ids, _ in item.answers)
    spread = float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0
    return {
        "kl": float(np.mean(differences)),
        "standard_error": spread / math.sqrt(len(differences)),
        "kl_per_token": sum(differences) / tokens,
        "answers": len(differences),
    }


def sample(
    model: Transformer, tokenizer: Tokenizer, prompts: Sequence[Ids], layout: Layout, max_tokens: int, seed: int
) -> list[Item]:
    """Each prompt with an answer that the model drew, end of turn included; the same for the same weights and seed."""
    engine, written = Engine(model, tokenizer.eos_ids), []
    for number, prompt in enumerate(prompts):
        room = min(max_tokens, layout.context - len(prompt))
        written += engine.add(prompt.tolist(), SamplingParams(max_tokens=room, temperature=1.0, seed=seed + number))
    for sequence in written:
        engine.run(sequence)
    answers = (np.array(sequence.ids, np.int64) for sequence in written)
    return [Item(prompt, ((ids, np.ones(len(ids), np.bool_)),)) for prompt, ids in zip(prompts, answers, strict=True)]
