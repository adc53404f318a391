"""What of a draft stands: the rows that were read for it are gone through as if each were the step of plain decoding.

The rule is that what is written has the distribution of plain decoding, whatever drafted it. Two cases:

    guessed  at each row the token is chosen as always, the likeliest or by a draw; while it is one of the children, the
             walk goes on there. A guess x is so kept with probability p(x), the most there can be for it, and the same
             seed writes the same answer as without drafts
    drawn    the draft gave the distribution q that its token x was drawn from: x is kept with probability
             min(1, p(x) / q(x)), else the rest is max(p - q, 0), normed, and the next sibling is tried against that;
             Leviathan et al. 2023, arXiv:2211.17192, section 2.3; Chen et al. 2023, arXiv:2302.01318, algorithm 2;
             for siblings SpecInfer, arXiv:2305.09781, algorithm 3

p is what is left after every processor. Each token is written before the next row is looked at, so penalties, n-grams
and constraints see the path as they would have seen the answer: a token that they forbid has p = 0 and is never kept.
Left out: acceptance that changes the distribution ("typical acceptance" of Medusa).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vesalius.core.errors import VesaliusError
from vesalius.infer.choosing import Choice, adjusted, choice_of, choose
from vesalius.infer.params import SamplingParams
from vesalius.infer.sampling import GREEDY_BELOW, candidates, draw
from vesalius.infer.sequence import Sequence
from vesalius.infer.speculative.draft import Draft

Write = Callable[[Sequence, Choice | VesaliusError], bool]
"""Adds what was chosen to a sequence -> whether it goes on."""


def write_along(draft: Draft, logits: Tensor, sequence: Sequence, write: Write) -> list[int]:
    """logits (1 + n, V): after the last certain token, then after each node -> the nodes that stand, in order.

    Writes their tokens and one more that was not drafted, the last of the path being that one where the sequence ends.
    """
    path: list[int] = []
    row = 0
    while True:
        children = draft.children[row]
        if draft.probabilities is not None and children and sequence.params.temperature >= GREEDY_BELOW:
            choice = _choose_drawn(logits[row], sequence, draft, children)
        else:
            choice = choose(logits[row : row + 1], [sequence])[0]
        if not write(sequence, choice):
            return path
        child = next((node for node in children if draft.tokens[node] == sequence.ids[-1]), None)
        if child is None:
            return path
        path.append(child)
        row = 1 + child


def _choose_drawn(logits: Tensor, sequence: Sequence, draft: Draft, children: list[int]) -> Choice | VesaliusError:
    """logits (V,) -> one of the children, or what is drawn from the rest."""
    scores, failed = adjusted(logits.unsqueeze(0), [sequence])
    if failed:
        return failed[0]
    assert draft.probabilities is not None
    siblings = [(draft.tokens[node], draft.probabilities[node]) for node in children]
    token = resolve(distribution(scores[0], sequence.params), siblings, sequence.generator)
    return choice_of(token, logits, sequence)


def resolve(p: Tensor, siblings: list[tuple[int, Tensor]], generator: torch.Generator) -> int:
    """p (V,), and tokens each with the distribution q (V,) it was drawn from, given those before it -> a token that is
    distributed as p, as often as can be one of them."""
    for token, q in siblings:
        uniform = torch.rand((), device=p.device, generator=generator)
        if bool(uniform * q[token] < p[token]):
            return token
        left = (p - q).clamp(min=0)
        if float(total := left.sum()) > 0:  # else p = q, and only rounding refused the token
            p = left / total
    return int(draw(p, generator))


def distribution(scores: Tensor, params: SamplingParams) -> Tensor:
    """scores (V,) -> probabilities (V,): those by which `sampling.sample` draws."""
    left, ids = candidates(scores, params)
    p = left.softmax(-1)
    return p if ids is None else torch.zeros_like(scores).scatter(-1, ids, p)
