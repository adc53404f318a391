"""What of a draft stands, and the one token more that its reading gives.

The rule is that the tokens written have the distribution of plain decoding, whatever drafted them. Three cases:

    greedy      the likeliest token is taken at every row; while it is one of the children, the walk goes on there
    guessed     a token is drawn at every row exactly as plain decoding would; likewise. A guess x is so kept with
                probability p(x), the most there can be for it, and the same seed writes the same answer as without
    drawn       the draft gave the distribution q that its token x was drawn from: x is kept with probability
                min(1, p(x) / q(x)), else the rest is max(p - q, 0), normed, and the next sibling is tried against that;
                Leviathan et al. 2023, arXiv:2211.17192, section 2.3; Chen et al. 2023, arXiv:2302.01318, algorithm 2;
                for siblings SpecInfer, arXiv:2305.09781, algorithm 3

p is what is left after every processor, and those that count read the path so far, as they would have. A constraint
moves along the path too, so a token that it forbids has p = 0 and is never kept.
Left out: acceptance that changes the distribution ("typical acceptance" of Medusa).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vesalius.core.errors import UserError
from vesalius.infer.params import SamplingParams
from vesalius.infer.sampling import GREEDY_BELOW, Adjuster, candidates, draw, likeliest, sample
from vesalius.infer.speculative.draft import Draft


class Mask(Protocol):
    """What verification needs of a constraint (infer/constrain)."""

    def prepare(self) -> None: ...
    def apply(self, scores: Tensor) -> Tensor: ...
    def accept(self, token: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Taking:
    """How one sequence takes its tokens. The constraint has accepted all tokens so far, and accepts each one taken."""

    params: SamplingParams
    generator: torch.Generator
    adjust: Adjuster
    eos_ids: frozenset[int] = frozenset()
    constraint: Mask | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.params.temperature < GREEDY_BELOW


@dataclass(frozen=True)
class Accepted:
    """What a step gives: `tokens` are those of the nodes on `path`, in order, and one more that no draft knew.

    Where an end token comes, or where the settings leave no token behind one, the last is that one, and not on `path`.
    """

    path: list[int]
    tokens: list[int]
    logprobs: list[float]

    @property
    def rows(self) -> list[int]:
        """The row of logits that each token was taken from."""
        return [0, *(1 + node for node in self.path)]


def accept(draft: Draft, logits: Tensor, taking: Taking, history: Tensor | None = None) -> Accepted:
    """logits (1 + n, V): after the last certain token, then after each node of the draft.

    `history` are all ids so far (T,), needed where a processor reads them (`adjust.active`). An empty draft is a step
    of plain decoding. UserError where the settings leave no token to take at the first row.
    """
    walk = _Walk(draft, logits, taking, history)
    path: list[int] = []
    tokens: list[int] = []
    row = 0
    while True:
        try:
            token, child = walk.take(row)
        except UserError:
            if not tokens:
                raise
            path.pop()  # plain decoding would have written this token before it failed: so the next step will
            break
        tokens.append(token)
        if child is None or token in taking.eos_ids:
            break
        path.append(child)
        row = 1 + child
    logprobs = logits[[0, *(1 + node for node in path)]].log_softmax(-1)  # (n + 1, V)
    chosen = torch.tensor(tokens, device=logits.device).unsqueeze(-1)
    return Accepted(path, tokens, logprobs.gather(-1, chosen).squeeze(-1).tolist())


class _Walk:
    """From row to row along the tokens that are taken."""

    def __init__(self, draft: Draft, logits: Tensor, taking: Taking, history: Tensor | None) -> None:
        self._draft, self._logits, self._taking, self._history = draft, logits, taking, history
        self._drawn = draft.probabilities is not None and not taking.is_greedy
        plain = taking.is_greedy and not taking.adjust.active and taking.constraint is None
        self._likeliest = likeliest(logits).tolist() if plain else None
        """Of all rows at once, where nothing depends on the path."""

    def take(self, row: int) -> tuple[int, int | None]:
        """The token after this row, and its node where the draft has it. UserError where none is left."""
        children = self._draft.children[row]
        if self._drawn and children:
            token, child = self._try(self._scores(row), children)
        else:
            token = self._likeliest[row] if self._likeliest else self._choose(self._scores(row))
            child = next((node for node in children if self._draft.tokens[node] == token), None)
        self._move(token)
        return token, child

    def _scores(self, row: int) -> Tensor:
        scores = self._logits[row]
        if self._taking.constraint is not None:
            if row:  # before the first one whoever runs the model has
                self._taking.constraint.prepare()
            scores = self._taking.constraint.apply(scores)
        if self._history is not None:
            scores = self._taking.adjust(scores, self._history)
        return scores

    def _choose(self, scores: Tensor) -> int:
        return int(sample(scores, self._taking.params, self._taking.generator))

    def _try(self, scores: Tensor, children: list[int]) -> tuple[int, int | None]:
        """One sibling after another against what of p the earlier ones have left."""
        assert self._draft.probabilities is not None
        p, generator = distribution(scores, self._taking.params), self._taking.generator
        for node in children:
            q, token = self._draft.probabilities[node], self._draft.tokens[node]
            uniform = torch.rand((), device=p.device, generator=generator)
            if bool(uniform * q[token] < p[token]):
                return token, node
            left = (p - q).clamp(min=0)
            if float(total := left.sum()) > 0:  # else p = q, and only rounding refused the token
                p = left / total
        return int(draw(p, generator)), None

    def _move(self, token: int) -> None:
        if self._taking.constraint is not None:
            self._taking.constraint.accept(token)
        if self._history is not None:
            self._history = torch.cat((self._history, self._history.new_tensor([token])))


def distribution(scores: Tensor, params: SamplingParams) -> Tensor:
    """scores (V,) -> probabilities (V,): those by which `sampling.sample` draws."""
    left, ids = candidates(scores, params)
    p = left.softmax(-1)
    return p if ids is None else torch.zeros_like(scores).scatter(-1, ids, p)
