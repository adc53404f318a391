"""What a request must be to become a sequence: checked where it enters, with the randomness and the processors of its
own.
"""

import itertools

import torch
from torch import nn

from vesalius.core.errors import UserError
from vesalius.infer.adapters import Adapters
from vesalius.infer.params import SamplingParams
from vesalius.infer.sampling import Adjuster
from vesalius.infer.sequence import Sequence
from vesalius.models.transformer import Transformer


class Intake:
    """Makes the sequences of one engine, numbered as they arrive."""

    def __init__(self, model: Transformer, adapters: Adapters, eos_ids: frozenset[int], context: int) -> None:
        """`context`: tokens that a prompt and its answer may have together."""
        self._model, self._adapters, self._eos_ids, self._context = model, adapters, eos_ids, context
        self._device, _ = placement(model)
        self._numbers = itertools.count()

    def writing(self, ids: list[int], params: SamplingParams, adapter: str | None = None) -> Sequence:
        """One that answers a prompt. UserError for a prompt that is empty, too long or has unknown ids, for settings
        that the vocabulary does not know, and for an adapter that the model does not have."""
        self._adapters.check(adapter)
        front = self._adapters.front(adapter)
        self._check(ids, room=1 + len(front))
        if params.bad_words:
            raise ValueError("bad_words are texts, which the engine cannot read: give it bad_words_ids")
        limit = min(params.max_tokens, self._context - len(front) - len(ids))
        return self._with(adapter, self._sequence(ids, front, params, limit))

    def reading(self, ids: list[int], adapter: str | None = None) -> Sequence:
        """One that writes nothing. UserError as in `writing`."""
        self._adapters.check(adapter)
        front = self._adapters.front(adapter)
        self._check(ids, room=len(front))
        return self._with(adapter, self._sequence(ids, front, SamplingParams(), 0))

    def _with(self, adapter: str | None, sequence: Sequence) -> Sequence:
        sequence.adapter, sequence.root = adapter, self._adapters.root(adapter)
        return sequence

    def _sequence(self, ids: list[int], front: list[int], params: SamplingParams, limit: int) -> Sequence:
        device, vocab_size = self._device, self._model.config.vocab_size
        generator = torch.Generator(device)
        generator.seed() if params.seed is None else generator.manual_seed(params.seed)
        length = len(front) + len(ids)
        adjust = Adjuster(params, vocab_size, prompt_tokens=length, eos_ids=self._eos_ids, device=device)
        sequence = Sequence(
            prompt=front + ids,
            unseen=len(front),
            params=params,
            limit=limit,
            generator=generator,
            adjust=adjust,
            number=next(self._numbers),
        )
        if adjust.active:
            sequence.history = torch.tensor(sequence.visible + [0] * limit, device=device)
        return sequence

    def _check(self, ids: list[int], room: int) -> None:
        """`room`: for so many tokens of an answer at least."""
        config = self._model.config
        if self._model.training and config.dropout:
            raise ValueError("the model is in training mode, so it would drop out at random: call model.eval() first")
        if not ids:
            raise UserError("the prompt has no tokens: give at least one")
        if len(ids) + room > self._context:
            own = self._context == config.max_position_embeddings
            what = "the model's context" if own else "the room of the cache (cache_bytes)"
            need = " and the answer needs room in it" if room else ""
            raise UserError(
                f"the prompt has {len(ids)} tokens, but {what} is {self._context}{need}: shorten the prompt"
            )
        if (unknown := next((i for i in ids if not 0 <= i < config.vocab_size), None)) is not None:
            raise UserError(
                f"token id {unknown} is not in the vocabulary of {config.vocab_size}: is this the model's tokenizer?"
            )


def placement(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a model computes and in what, told by its first weight that is a number and not packed bits."""
    weights = itertools.chain(model.parameters(), model.buffers())
    weight = next(weight for weight in weights if weight.is_floating_point())
    return weight.device, weight.dtype
