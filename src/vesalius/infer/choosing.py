"""One token for each of many sequences, out of the logits of one step.

Sequences that ask for the same are drawn together, each with its own generator, so that a draw does not depend on who
else is in the batch. Log-probabilities are the model's own, before every processor.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping

import torch
from torch import Tensor

from vesalius.core.errors import UserError, VesaliusError
from vesalius.infer.params import SamplingParams
from vesalius.infer.sampling import GREEDY_BELOW, sample
from vesalius.infer.sequence import Sequence

Choice = tuple[int, float, dict[int, float]]
"""A token, its log-probability, and those of the likeliest ones."""


def choose(logits: Tensor, sequences: list[Sequence]) -> list[Choice | VesaliusError]:
    """logits (S, V), a row for each sequence -> what each writes next, or why it cannot.

    VesaliusError where the model gives no finite probability, UserError where the settings leave no token to take.
    """
    normalisers = logits.logsumexp(-1)  # (S,)
    scores, failed = adjusted(logits, sequences)
    chosen = torch.zeros(len(sequences), dtype=torch.int64, device=logits.device)
    for rows in _groups(sequences):
        these = scores if len(rows) == len(sequences) else scores[rows]
        picked = sample(these, sequences[rows[0]].params, [sequences[row].generator for row in rows])
        chosen = picked if len(rows) == len(sequences) else chosen.index_copy(0, _index(rows, chosen), picked)
    logprobs = logits.gather(1, chosen.unsqueeze(1)).squeeze(1) - normalisers
    # One transfer from the device for both. Every id is below 2 ** 24, so it is exact in float32.
    tokens, values = torch.stack((chosen.float(), logprobs)).tolist()
    return [
        failed.get(row) or _choice(int(tokens[row]), values[row], sequence, logits[row], normalisers[row])
        for row, sequence in enumerate(sequences)
    ]


def adjusted(logits: Tensor, sequences: list[Sequence]) -> tuple[Tensor, Mapping[int, VesaliusError]]:
    """logits (S, V) -> scores (S, V) after the processors that change single scores, and the rows where they leave
    nothing."""
    failed: dict[int, VesaliusError] = {}
    changed: dict[int, Tensor] = {}
    for row, sequence in enumerate(sequences):
        try:
            if sequence.history is not None:
                changed[row] = sequence.adjust(logits[row], sequence.history[: sequence.length])
            if sequence.constraint is not None:
                changed[row] = _constrained(changed.get(row, logits[row]), sequence)
        except UserError as error:
            failed[row] = error
    if not changed:
        return logits, failed
    rows = _index(list(changed), logits)
    return logits.index_copy(0, rows, torch.stack(list(changed.values()))), failed


def _constrained(scores: Tensor, sequence: Sequence) -> Tensor:
    assert sequence.constraint is not None
    scores = sequence.constraint.apply(scores)
    if float(scores.amax()) == -math.inf:
        raise UserError(
            f"after {len(sequence.ids)} new tokens none is left to take: "
            "the grammar and the other settings together forbid all"
        )
    return scores


def _groups(sequences: list[Sequence]) -> list[list[int]]:
    """The rows that ask for the same, together."""
    groups: defaultdict[Hashable, list[int]] = defaultdict(list)
    for row, sequence in enumerate(sequences):
        groups[_shape(sequence.params)].append(row)
    return list(groups.values())


def _shape(params: SamplingParams) -> Hashable:
    """What of the settings shapes the distribution that is drawn from."""
    if params.temperature < GREEDY_BELOW:
        return None
    return params.temperature, params.top_k, params.top_p, params.min_p, params.typical_p


def _choice(
    token: int, logprob: float, sequence: Sequence, logits: Tensor, normaliser: Tensor
) -> Choice | VesaliusError:
    if not math.isfinite(logprob):
        return VesaliusError(
            f"the logits after {len(sequence.ids)} new tokens are not finite: the model's weights are broken"
        )
    count = sequence.params.top_logprobs
    return token, logprob, top_logprobs(logits - normaliser, count) if count else {}


def top_logprobs(logprobs: Tensor, count: int) -> dict[int, float]:
    """The likeliest tokens of (V,), best first, with their log-probabilities."""
    values, ids = logprobs.topk(min(count, len(logprobs)))
    return dict(zip(ids.tolist(), values.tolist(), strict=True))


def _index(rows: list[int], like: Tensor) -> Tensor:
    return torch.tensor(rows, device=like.device)
