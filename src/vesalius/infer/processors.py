"""Processors: each reshapes the scores of the next token, and removes a token by giving it -inf.

All are pure: scores (…, V), and for some the ids (…, T) that stand before, in; scores (…, V) out, a row of ids for each
row of scores. Two kinds. The first ones adjust single scores by what was said or asked, and also count where the
likeliest token is taken. The others, from `temperature` on, shape the distribution that a token is drawn from.

Sources: repetition penalty Keskar et al. 2019, arXiv:1909.05858, section 4.1; presence and frequency penalty as OpenAI
defines them; top-p Holtzman et al. 2020, arXiv:1904.09751, section 3.1; min-p Nguyen et al. 2024, arXiv:2407.01082,
section 3; typical sampling Meister et al. 2023, arXiv:2202.00666, section 3. Each equals transformers' processor of
that name. Left out: guidance, watermarks, and constraints by a grammar.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

BannedGroup = tuple[Tensor, Tensor]
"""Sequences of one length m: all but their last tokens (N, m - 1), and their last tokens (N,)."""


def logit_bias(scores: Tensor, tokens: Tensor, bias: Tensor) -> Tensor:
    """Adds bias (N,) to the scores of the tokens (N,)."""
    rows = scores.shape[:-1]
    return scores.scatter_add(-1, tokens.expand(*rows, -1), bias.expand(*rows, -1))


def repetition_penalty(scores: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Makes every token that stands in `ids` less likely where the penalty is above 1: positive scores are divided by
    it, negative ones multiplied.

    >>> repetition_penalty(torch.tensor([3.0, -1.0, 2.0]), torch.tensor([0, 1, 0]), 2.0)
    tensor([ 1.5000, -2.0000,  2.0000])
    """
    said = scores.gather(-1, ids)  # (…, T)
    return scores.scatter(-1, ids, torch.where(said < 0, said * penalty, said / penalty))


def count_penalties(scores: Tensor, ids: Tensor, presence: float, frequency: float) -> Tensor:
    """Takes `presence` from the score of each token that stands in `ids`, and `frequency` once for each time it does.

    >>> count_penalties(torch.zeros(3), torch.tensor([0, 0, 1]), 0.5, 1.0)
    tensor([-2.5000, -1.5000,  0.0000])
    """
    counts = torch.zeros_like(scores).scatter_add_(-1, ids, torch.ones_like(ids, dtype=scores.dtype))  # (…, V)
    return scores - frequency * counts - presence * (counts > 0)


def no_repeat_ngram(scores: Tensor, ids: Tensor, size: int) -> Tensor:
    """Removes every token that would end a sequence of `size` tokens for the second time."""
    if ids.shape[-1] < size:
        return scores
    windows = ids.unfold(-1, size, 1)  # (…, T - size + 1, size)
    begun = ids[..., ids.shape[-1] + 1 - size :].unsqueeze(-2)  # (…, 1, size - 1)
    return _remove(scores, windows[..., -1], (windows[..., :-1] == begun).all(-1))


def banned_groups(sequences: Iterable[tuple[int, ...]], device: torch.device) -> list[BannedGroup]:
    """What `bad_words` needs, once for a whole generation."""
    by_length: dict[int, list[tuple[int, ...]]] = {}
    for sequence in sequences:
        by_length.setdefault(len(sequence), []).append(sequence)
    tables = [torch.tensor(group, device=device) for group in by_length.values()]  # (N, m) each
    return [(table[:, :-1], table[:, -1]) for table in tables]


def bad_words(scores: Tensor, ids: Tensor, groups: Iterable[BannedGroup]) -> Tensor:
    """Removes every token that would complete a banned sequence; a sequence of one token is always removed."""
    for beginnings, last in groups:
        length = beginnings.shape[1]
        if length <= ids.shape[-1]:
            recent = ids[..., ids.shape[-1] - length :].unsqueeze(-2)  # (…, 1, m - 1)
            scores = _remove(scores, last, (recent == beginnings).all(-1))
    return scores


def remove(scores: Tensor, tokens: Tensor) -> Tensor:
    """Removes the tokens (N,)."""
    return scores.index_fill(-1, tokens, -math.inf)


def temperature(scores: Tensor, value: float) -> Tensor:
    """Divides by `value` > 0: below 1 sharpens the distribution, above 1 flattens it."""
    return scores / value


def top_k(scores: Tensor, k: int) -> Tensor:
    """Removes all but the k highest scores; ties with the k-th stay."""
    kth = scores.topk(min(k, scores.shape[-1])).values[..., -1:]  # (…, 1)
    return scores.masked_fill(scores < kth, -math.inf)


def top_p(scores: Tensor, p: float) -> Tensor:
    """Keeps the smallest set of likeliest tokens whose probabilities reach p; at least one token stays.

    >>> top_p(torch.tensor([[0.5, 0.3, 0.2]]).log(), 0.7).softmax(-1)
    tensor([[0.6250, 0.3750, 0.0000]])
    """
    ascending, order = scores.sort(-1)
    removed = ascending.softmax(-1).cumsum(-1) <= 1 - p  # the least likely tokens that together weigh at most 1 - p
    removed[..., -1] = False
    return scores.masked_fill(removed.scatter(-1, order, removed), -math.inf)


def min_p(scores: Tensor, fraction: float) -> Tensor:
    """Removes tokens less likely than `fraction` times the likeliest."""
    probabilities = scores.softmax(-1)
    return scores.masked_fill(probabilities < fraction * probabilities.amax(-1, keepdim=True), -math.inf)


def typical_p(scores: Tensor, mass: float) -> Tensor:
    """Keeps the tokens whose surprise is nearest to the distribution's entropy, as few as hold `mass`.

    The likeliest token goes where it is less surprising than a typical one.
    """
    logprobs = scores.log_softmax(-1)
    entropy = -(logprobs * logprobs.exp()).nansum(-1, keepdim=True)  # (…, 1); 0 · -inf of a removed token is no entropy
    distance, order = (-logprobs - entropy).abs().sort(-1)
    held = scores.gather(-1, order).softmax(-1).cumsum(-1)  # (…, V), nearest first
    last = (held < mass).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)  # (…, 1)
    removed = distance > distance.gather(-1, last)
    removed[..., 0] = False
    return scores.masked_fill(removed.scatter(-1, order, removed), -math.inf)


def _remove(scores: Tensor, tokens: Tensor, chosen: Tensor) -> Tensor:
    """Removes the tokens (N,) or (…, N) where chosen (…, N). Adding -inf, not setting it: a token may stand twice in
    `tokens` and be chosen once."""
    penalties = torch.zeros(chosen.shape, dtype=scores.dtype, device=scores.device).masked_fill_(chosen, -math.inf)
    return scores.scatter_add(-1, tokens.expand(chosen.shape), penalties)
