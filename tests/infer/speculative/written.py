"""Sequences as proposers and verification see them, without an engine."""

import torch
from torch import Tensor

from vesalius.core.errors import VesaliusError
from vesalius.infer.choosing import Choice
from vesalius.infer.params import SamplingParams
from vesalius.infer.sampling import Adjuster
from vesalius.infer.sequence import Constraint, Sequence
from vesalius.infer.step import Step

ROOM = 100


def text(
    prompt: list[int],
    params: SamplingParams | None = None,
    *,
    generator: torch.Generator | None = None,
    hidden: Tensor | None = None,
    constraint: Constraint | None = None,
    vocab_size: int = 97,
    eos_ids: tuple[int, ...] = (),
) -> Sequence:
    """One that has written nothing yet."""
    params = params or SamplingParams()
    adjust = Adjuster(params, vocab_size, prompt_tokens=len(prompt), eos_ids=frozenset(eos_ids))
    return Sequence(
        prompt=list(prompt),
        params=params,
        limit=ROOM,
        generator=generator or torch.Generator().manual_seed(0),
        adjust=adjust,
        constraint=constraint,
        history=torch.tensor(prompt + [0] * ROOM) if adjust.active else None,
        hidden=hidden,
    )


def write(sequence: Sequence, choice: Choice | VesaliusError, eos_ids: tuple[int, ...] = ()) -> bool:
    """As the engine does it."""
    if isinstance(choice, VesaliusError):
        sequence.error = choice
        return False
    token, logprob, top = choice
    if sequence.constraint is not None and token not in eos_ids:
        sequence.constraint.accept(token)
    sequence.finish_reason = "stop" if token in eos_ids else None
    sequence.add(Step(token, logprob, sequence.finish_reason, top))
    return sequence.finish_reason is None
