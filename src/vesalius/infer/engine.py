"""The one way to generate (contract 4): a sequence is prompt, settings and cache, and a step gives it one more token.

The first step reads the whole prompt, or what an earlier sequence has not read of it, every later one only the token
before; only the last position goes through the output head. Beams are rows of one cache and step together.
Left out: several sequences in one step, which need a scheduler over the same `Sequence` and `step`.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vesalius.core.errors import UserError, VesaliusError
from vesalius.infer.beam_search import Beam, BeamSearch
from vesalius.infer.cache import DenseCache, cache_for
from vesalius.infer.params import SamplingParams
from vesalius.infer.sampling import Adjuster, sample
from vesalius.infer.step import FinishReason, Step
from vesalius.models.positions import reread_at
from vesalius.models.transformer import Transformer

__all__ = ["Engine", "FinishReason", "Sequence", "Step", "Steps", "placement"]


@dataclass(kw_only=True)
class Sequence:
    """One request on its way: what was asked, what the model has read, what it has written.

    history  all ids (T,) with room for those to come, for the processors that read them; None where none does
    over     whether a later sequence took the cache, so that this one cannot go on
    """

    prompt: list[int]
    params: SamplingParams
    cache: DenseCache
    generator: torch.Generator
    adjust: Adjuster
    limit: int
    history: Tensor | None
    ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    over: bool = False

    @property
    def unread(self) -> list[int]:
        """The tokens that the cache does not hold yet."""
        written = self.cache.length - len(self.prompt)
        return self.ids[written:] if written >= 0 else self.prompt[written:] + self.ids

    def add(self, token: int) -> None:
        """Writes one more token."""
        if self.history is not None:
            self.history[len(self.prompt) + len(self.ids)] = token
        self.ids.append(token)


class Engine:
    """Generates from one model, which stays in the mode it is in and must not be dropping out."""

    def __init__(self, model: Transformer, eos_ids: tuple[int, ...] = ()) -> None:
        """`eos_ids` end a sequence; they are part of it."""
        self.model = model
        self.eos_ids = frozenset(eos_ids)

    def stream(self, ids: list[int], params: SamplingParams, reuse: Sequence | None = None) -> "Steps":
        """One step after another until the sequence is finished. `reuse` and UserError as in `start`, at once."""
        if params.num_beams > 1:
            raise UserError(
                f"num_beams = {params.num_beams}: beam search knows its answer only at the end, it cannot be streamed"
            )
        return Steps(self, self.start(ids, params, reuse))

    def start(self, ids: list[int], params: SamplingParams, reuse: Sequence | None = None) -> Sequence:
        """A sequence that has written nothing yet. UserError for a prompt that is empty, too long or has unknown ids.

        It takes the cache of `reuse`, an earlier sequence, which is over then, and reads only from where the two
        differ.
        """
        self._check(ids)
        if params.bad_words:
            raise ValueError("bad_words are texts, which the engine cannot read: give it bad_words_ids")
        device, dtype = placement(self.model)
        generator = torch.Generator(device)
        generator.seed() if params.seed is None else generator.manual_seed(params.seed)
        config = self.model.config
        limit = min(params.max_tokens, config.max_position_embeddings - len(ids))
        adjust = Adjuster(params, config.vocab_size, prompt_tokens=len(ids), eos_ids=self.eos_ids, device=device)
        room = torch.tensor(ids + [0] * limit, device=device) if adjust.active else None
        if reuse is None or reread_at(config):  # keys beyond that length are turned by other frequencies
            cache = cache_for(config, capacity=len(ids) + min(limit, 256), dtype=dtype, device=device)
        else:
            cache = _common_beginning(reuse, ids)
        return Sequence(
            prompt=list(ids),
            params=params,
            cache=cache,
            generator=generator,
            adjust=adjust,
            limit=limit,
            history=room,
        )

    # A decorator and not a `with` in `stream`: a generator that yields inside inference mode leaves its caller in it.
    @torch.inference_mode()
    def step(self, sequence: Sequence) -> Step:
        """Reads what is unread and adds one token. ValueError for a sequence that is over.

        VesaliusError where the model gives no finite probability, UserError where the settings leave no token to take.
        """
        if sequence.over:
            raise ValueError("this sequence's cache went to a later one: start another, or do not reuse it")
        self._forget_where_frequencies_change(sequence.cache, len(sequence.prompt) + len(sequence.ids))
        unread = torch.tensor([sequence.unread], device=sequence.generator.device)  # (1, T)
        logits = self._read(unread, sequence.cache)[0]  # (V,)
        logprobs = logits.log_softmax(-1)
        if sequence.history is not None:
            logits = sequence.adjust(logits, sequence.history[: len(sequence.prompt) + len(sequence.ids)])
        chosen = sample(logits, sequence.params, sequence.generator).view(1)
        # One transfer from the device for both. Every id is below 2 ** 24, so it is exact in float32.
        number, logprob = torch.cat((chosen.float(), logprobs.gather(-1, chosen))).tolist()
        if not math.isfinite(logprob):
            raise VesaliusError(
                f"the logits after {len(sequence.ids)} new tokens are not finite: the model's weights are broken"
            )
        sequence.add(int(number))
        sequence.finish_reason = self._finish_reason(sequence)
        top = _top(logprobs, sequence.params.top_logprobs) if sequence.params.top_logprobs else {}
        return Step(int(number), logprob, sequence.finish_reason, top)

    @torch.inference_mode()
    def beams(self, ids: list[int], params: SamplingParams) -> list[Beam]:
        """The best `num_beams` answers that beam search finds, best first. Errors as in `start` and `step`."""
        sequence = self.start(ids, params)
        prompt = torch.tensor(ids, device=sequence.generator.device)  # (T,)
        search = BeamSearch(prompt, params, limit=sequence.limit, eos_ids=self.eos_ids, adjust=sequence.adjust)
        logits = self._read(prompt.unsqueeze(0), sequence.cache).expand(params.num_beams, -1)  # (K, V)
        sequence.cache.reorder(prompt.new_zeros(params.num_beams))  # every beam begins with the one prompt
        while True:
            rows = search.advance(logits)
            if search.done:
                return search.finished
            sequence.cache.reorder(rows)
            self._forget_where_frequencies_change(sequence.cache, search.ids.shape[1])
            logits = self._read(search.ids[:, sequence.cache.length :], sequence.cache)

    def _forget_where_frequencies_change(self, cache: DenseCache, length: int) -> None:
        """Empties the cache where a text of this length is turned otherwise than what the cache holds (LongRoPE)."""
        if cache.length < reread_at(self.model.config) <= length:
            cache.truncate(0)

    def _read(self, tokens: Tensor, cache: DenseCache) -> Tensor:
        """tokens (B, T) -> logits (B, V) after the last of them."""
        hidden = self.model.model(tokens, cache.positions(tokens.shape[1]), cache)  # (B, T, D)
        return self.model.logits(hidden[:, -1])

    def _finish_reason(self, sequence: Sequence) -> FinishReason | None:
        if sequence.ids[-1] in self.eos_ids:
            return "stop"
        return "length" if len(sequence.ids) >= sequence.limit else None

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


class Steps:
    """The steps of one sequence, each made when it is asked for."""

    def __init__(self, engine: Engine, sequence: Sequence) -> None:
        self.sequence = sequence
        self._engine = engine

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        if self.sequence.finish_reason is not None:
            raise StopIteration
        return self._engine.step(self.sequence)


def placement(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a model computes and in what, told by its first weight that is a number and not packed bits."""
    weights = itertools.chain(model.parameters(), model.buffers())
    weight = next(weight for weight in weights if weight.is_floating_point())
    return weight.device, weight.dtype


def _common_beginning(earlier: Sequence, ids: list[int]) -> DenseCache:
    """The cache of an earlier sequence, cut to the tokens with which `ids` begins too, all but the last: one token has
    to be read for there to be logits."""
    read = (earlier.prompt + earlier.ids)[: earlier.cache.length]
    pairs = zip(read, ids, strict=False)
    shared = next((i for i, (old, new) in enumerate(pairs) if old != new), min(len(read), len(ids)))
    earlier.over = True
    earlier.cache.truncate(min(shared, len(ids) - 1))
    return earlier.cache


def _top(logprobs: Tensor, count: int) -> dict[int, float]:
    values, ids = logprobs.topk(min(count, len(logprobs)))
    return dict(zip(ids.tolist(), values.tolist(), strict=True))
