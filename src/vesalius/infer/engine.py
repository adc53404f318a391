"""The one way to generate (contract 4): a sequence is prompt, settings and cache, and a step gives it one more token.

The first step reads the whole prompt, every later one only the token before; only the last position goes through the
output head.
Left out: several sequences in one step, which need a scheduler over the same `Sequence` and `step`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch

from vesalius.core.errors import UserError, VesaliusError
from vesalius.infer.cache import DenseCache
from vesalius.infer.sampling import SamplingParams, sample
from vesalius.models.transformer import Transformer

FinishReason = Literal["stop", "length"]
"""OpenAI's words: "stop" at an end token or stop text, "length" at max_tokens or at the end of the context."""


class Step(NamedTuple):
    """One new token. `logprob` is the model's own log-probability of it, before every processor."""

    id: int
    logprob: float
    finish_reason: FinishReason | None


@dataclass(kw_only=True)
class Sequence:
    """One request on its way: what was asked, what the model has read, what it has written."""

    prompt: list[int]
    params: SamplingParams
    cache: DenseCache
    generator: torch.Generator
    ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    @property
    def unread(self) -> list[int]:
        """The tokens that the cache does not hold yet."""
        return self.ids[-1:] or self.prompt


class Engine:
    """Generates from one model, which stays in the mode it is in and must not be dropping out."""

    def __init__(self, model: Transformer, eos_ids: tuple[int, ...] = ()) -> None:
        """`eos_ids` end a sequence; they are part of it."""
        self.model = model
        self.eos_ids = frozenset(eos_ids)

    def stream(self, ids: list[int], params: SamplingParams) -> Iterator[Step]:
        """One step after another until the sequence is finished. UserError as in `start`, at once."""
        sequence = self.start(ids, params)

        def unfinished() -> Iterator[Step]:
            while sequence.finish_reason is None:
                yield self.step(sequence)

        return unfinished()

    def start(self, ids: list[int], params: SamplingParams) -> Sequence:
        """A sequence that has read nothing yet. UserError for a prompt that is empty, too long or has unknown ids."""
        self._check(ids)
        weight = self.model.lm_head.weight
        generator = torch.Generator(weight.device)
        generator.seed() if params.seed is None else generator.manual_seed(params.seed)
        cache = DenseCache(
            self.model.config, capacity=len(ids) + min(params.max_tokens, 256), dtype=weight.dtype, device=weight.device
        )
        return Sequence(prompt=list(ids), params=params, cache=cache, generator=generator)

    # A decorator and not a `with` in `stream`: a generator that yields inside inference mode leaves its caller in it.
    @torch.inference_mode()
    def step(self, sequence: Sequence) -> Step:
        """Reads what is unread and adds one token. VesaliusError where the model gives no finite probability."""
        unread = torch.tensor([sequence.unread], device=sequence.generator.device)  # (1, T)
        positions = sequence.cache.positions(unread.shape[1])
        hidden = self.model.model(unread, positions, sequence.cache)  # (1, T, D)
        logits = self.model.logits(hidden[0, -1])  # (V,)
        token = int(sample(logits, sequence.params, sequence.generator))
        logprob = float(logits[token] - logits.logsumexp(-1))
        if not math.isfinite(logprob):
            raise VesaliusError(
                f"the logits after {len(sequence.ids)} new tokens are not finite: the model's weights are broken"
            )
        sequence.ids.append(token)
        sequence.finish_reason = self._finish_reason(sequence)
        return Step(token, logprob, sequence.finish_reason)

    def _finish_reason(self, sequence: Sequence) -> FinishReason | None:
        if sequence.ids[-1] in self.eos_ids:
            return "stop"
        total = len(sequence.prompt) + len(sequence.ids)
        full = len(sequence.ids) >= sequence.params.max_tokens or total >= self.model.config.max_position_embeddings
        return "length" if full else None

    def _check(self, ids: list[int]) -> None:
        config = self.model.config
        if self.model.training and config.dropout:
            raise ValueError("the model is in training mode, so it would drop out at random: call model.eval() first")
        if not ids:
            raise UserError("the prompt has no tokens: give at least one")
        if len(ids) >= config.max_position_embeddings:
            raise UserError(
                f"the prompt has {len(ids)} tokens, but the model's context is {config.max_position_embeddings} "
                "and the answer needs room in it: shorten the prompt"
            )
        if (unknown := next((i for i in ids if not 0 <= i < config.vocab_size), None)) is not None:
            raise UserError(
                f"token id {unknown} is not in the vocabulary of {config.vocab_size}: is this the model's tokenizer?"
            )
