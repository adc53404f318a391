"""Choosing the next token: the processors in order, then the likeliest token or a draw.

The order is that of transformers, so the same settings mean the same distribution in both libraries: bias, repetition
penalty, (presence and frequency penalty, which only OpenAI's API has,) n-grams, bad words, end tokens; then, only where
a token is drawn, temperature, top-k, top-p, min-p, typical. `process` is that last part as it reads. `candidates` gives
the same distribution over few tokens without sorting the vocabulary: top-k or the likeliest few hundred tokens first,
everything else on those.
"""

import math

import torch
from torch import Tensor

from vesalius.core.errors import UserError
from vesalius.infer import processors
from vesalius.infer.params import SamplingOptions, SamplingParams

__all__ = ["Adjuster", "SamplingOptions", "SamplingParams", "candidates", "draw", "likeliest", "process", "sample"]

GREEDY_BELOW = 1e-5
"""Dividing logits by a smaller temperature overflows float32, and the draw would be the greedy one anyway."""

NUCLEUS_SIZES = (256, 4096)
"""How many of the likeliest tokens are tried in turn as those that hold top_p, before all are sorted."""

BLOCK = 64
"""Scores whose maximum is found at once; argmax itself looks at one after another."""


Generators = torch.Generator | list[torch.Generator] | None
"""What draws: the global state, one generator, or one for each row."""


class Adjuster:
    """The processors that change single scores, made ready for one prompt: adjuster(scores, ids) -> scores.

    UserError where a setting names a token that is not in the vocabulary.
    """

    def __init__(
        self,
        params: SamplingParams,
        vocab_size: int,
        *,
        prompt_tokens: int = 0,
        eos_ids: frozenset[int] = frozenset(),
        device: torch.device | str = "cpu",
    ) -> None:
        _check_ids(params, vocab_size)
        device = torch.device(device)
        self.params, self.prompt_tokens = params, prompt_tokens
        self._ends = torch.tensor(sorted(eos_ids), dtype=torch.int64, device=device)
        self._biased = torch.tensor(list(params.logit_bias), dtype=torch.int64, device=device)
        self._bias = torch.tensor(list(params.logit_bias.values()), dtype=torch.float32, device=device)
        # As in transformers: who bans an end token alone does not want an answer without end.
        banned = [ids for ids in params.bad_words_ids if len(ids) > 1 or ids[0] not in eos_ids]
        self._banned = processors.banned_groups(banned, device)
        self._counts = params.presence_penalty != 0 or params.frequency_penalty != 0
        self.active = bool(
            params.logit_bias
            or params.repetition_penalty != 1
            or self._counts
            or params.no_repeat_ngram_size
            or banned
            or (params.min_tokens and eos_ids)
        )
        """Whether it changes anything."""

    def __call__(self, scores: Tensor, ids: Tensor) -> Tensor:
        """scores (…, V) and all ids so far (…, T) -> scores (…, V). UserError where no token is left."""
        if not self.active:
            return scores
        asked, generated = self.params, ids[..., self.prompt_tokens :]
        if asked.logit_bias:
            scores = processors.logit_bias(scores, self._biased, self._bias)
        if asked.repetition_penalty != 1:
            scores = processors.repetition_penalty(scores, ids, asked.repetition_penalty)
        if self._counts:
            scores = processors.count_penalties(scores, generated, asked.presence_penalty, asked.frequency_penalty)
        if asked.no_repeat_ngram_size:
            scores = processors.no_repeat_ngram(scores, ids, asked.no_repeat_ngram_size)
        scores = processors.bad_words(scores, ids, self._banned)
        if generated.shape[-1] < asked.min_tokens:
            scores = processors.remove(scores, self._ends)
        if float(scores.amax()) == -math.inf:
            raise UserError(
                f"after {generated.shape[-1]} new tokens none is left to take: "
                "logit_bias, bad words, no_repeat_ngram_size and min_tokens together forbid all"
            )
        return scores


def sample(scores: Tensor, params: SamplingParams, generator: Generators = None) -> Tensor:
    """scores (…, V) -> one token id for each row (…), int64: the likeliest at temperature 0, else drawn from what
    `process` leaves. `generator` may be one for each of the rows (B, V)."""
    if params.temperature < GREEDY_BELOW:
        return likeliest(scores)
    left, ids = candidates(scores, params)
    place = draw(left.softmax(-1), generator)  # (…,)
    return place if ids is None else ids.gather(-1, place.unsqueeze(-1)).squeeze(-1)


def process(scores: Tensor, params: SamplingParams) -> Tensor:
    """scores (…, V) -> scores (…, V): every processor that shapes the distribution and that `params` asks for."""
    scores = processors.temperature(scores, params.temperature)
    if params.top_k is not None:
        scores = processors.top_k(scores, params.top_k)
    return _after_top_k(scores, params)


def candidates(scores: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor | None]:
    """scores (…, V) -> scores (…, n) whose softmax is that of `process`, and which ids (…, n) they belong to.

    None in place of ids: n is V, each id its own place.
    """
    scores = processors.temperature(scores, params.temperature)
    if params.top_k is not None and params.top_k < scores.shape[-1]:
        values, ids = scores.topk(params.top_k + 1)
        if not (values[..., -1] == values[..., -2]).any():  # ties with the k-th would stay
            return _after_top_k(values[..., :-1], params), ids[..., :-1]
        scores = processors.top_k(scores, params.top_k)
    elif params.top_p is not None and params.top_p < 1 and (found := _nucleus(scores, params.top_p)) is not None:
        values, ids = found
        return _after_top_p(values, params), ids
    return _after_top_k(scores, params), None


def _after_top_k(scores: Tensor, params: SamplingParams) -> Tensor:
    if params.top_p is not None and params.top_p < 1:
        scores = processors.top_p(scores, params.top_p)
    return _after_top_p(scores, params)


def _after_top_p(scores: Tensor, params: SamplingParams) -> Tensor:
    if params.min_p is not None:
        scores = processors.min_p(scores, params.min_p)
    if params.typical_p is not None and params.typical_p < 1:
        scores = processors.typical_p(scores, params.typical_p)
    return scores


def _nucleus(scores: Tensor, p: float) -> tuple[Tensor, Tensor] | None:
    """What top-p keeps of each row (…, V): scores (…, n) and ids (…, n), likeliest first, -inf behind the last that a
    row keeps. None where a row keeps too many to be found faster than by sorting."""
    logprobs = scores.log_softmax(-1)
    for size in NUCLEUS_SIZES:
        if size >= scores.shape[-1]:
            break
        values, ids = logprobs.topk(size)
        reached = values.exp().cumsum(-1)  # (…, n)
        if float(reached[..., -1].amin()) >= p:
            kept = (reached < p).sum(-1, keepdim=True) + 1  # (…, 1)
            count = int(kept.amax())
            beyond = torch.arange(count, device=ids.device) >= kept
            return values[..., :count].masked_fill(beyond, -math.inf), ids[..., :count]
    return None


def likeliest(scores: Tensor) -> Tensor:
    """argmax: scores (…, V) -> ids (…), the first of equals."""
    if scores.shape[-1] % BLOCK:
        return scores.argmax(-1)
    blocks = scores.unflatten(-1, (-1, BLOCK))  # (…, V / 64, 64)
    block = blocks.amax(-1).argmax(-1)  # (…)
    best = blocks.take_along_dim(block[..., None, None], -2).squeeze(-2)  # (…, 64)
    return block * BLOCK + best.argmax(-1)


def draw(probabilities: Tensor, generator: Generators = None) -> Tensor:
    """probabilities (…, V), not necessarily normed -> one place for each row (…), int64, drawn by one generator, or by
    one for each of the rows (B, V).

    One uniform number a row is looked up in the summed probabilities: `torch.multinomial` takes one number for each of
    the V tokens. Sums are float64, where the hardware has it, or the last of many tokens would be lost in rounding.
    """
    wide = torch.float32 if probabilities.device.type == "mps" else torch.float64
    reached = probabilities.cumsum(-1, dtype=wide)  # (…, V)
    uniform = _uniform((*probabilities.shape[:-1], 1), wide, probabilities.device, generator)
    place = torch.searchsorted(reached, uniform * reached[..., -1:], right=True)  # (…, 1)
    return place.squeeze(-1).clamp(max=probabilities.shape[-1] - 1)


def _uniform(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: Generators) -> Tensor:
    if not isinstance(generator, list):
        return torch.rand(shape, dtype=dtype, device=device, generator=generator)
    return torch.cat([torch.rand((1, *shape[1:]), dtype=dtype, device=device, generator=one) for one in generator])


def _check_ids(params: SamplingParams, vocab_size: int) -> None:
    named = {"logit_bias": list(params.logit_bias), "bad_words_ids": [i for ids in params.bad_words_ids for i in ids]}
    for name, ids in named.items():
        if (unknown := next((i for i in ids if i >= vocab_size), None)) is not None:
            raise UserError(f"{name} names token {unknown}, expected one below the vocabulary's size of {vocab_size}")
