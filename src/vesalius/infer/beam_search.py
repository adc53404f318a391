"""Beam search: instead of one token at a time the likeliest answers as a whole, the best few kept at each step.
Graves 2012, arXiv:1211.3711, section 2.5; length penalty without its offset: Wu et al. 2016, arXiv:1609.08144, eq. 14.

Scores, candidates and the three ways to end are transformers', so that both find the same beams: of twice num_beams
candidates (more with several end tokens) those among the first num_beams that end are answers, the best that don't end
go on. Left out: drawing beams at random, groups of diverse beams, stop texts.
"""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from vesalius.core.errors import VesaliusError
from vesalius.infer.params import SamplingParams
from vesalius.infer.sampling import Adjuster
from vesalius.infer.step import Step

NEVER = -1e9
"""Where a log-probability would be too low for any beam, and still finite."""


@dataclass(frozen=True, kw_only=True)
class Beam:
    """One answer.

    ids, logprobs  its tokens, the end token included, and the model's own log-probability of each
    score          the sum of the log-probabilities after every processor, divided by length ** length_penalty
    ended          whether an end token ends it, and not the limit
    """

    ids: list[int]
    logprobs: list[float]
    score: float
    ended: bool

    def steps(self) -> Generator[Step]:
        """The steps that would have made it."""
        *before, last = zip(self.ids, self.logprobs, strict=True)
        for token, logprob in before:
            yield Step(token, logprob, None, {})
        yield Step(*last, "stop" if self.ended else "length", {})


class BeamSearch:
    """The beams that go on, K of them, and the best K that have ended. It knows no model: `advance` takes its logits.

    ids (K, T) are the prompt and what each open beam adds to it.
    """

    def __init__(
        self, prompt: Tensor, params: SamplingParams, *, limit: int, eos_ids: frozenset[int], adjust: Adjuster
    ) -> None:
        """prompt (T,); an answer has at most `limit` tokens."""
        K, device = params.num_beams, prompt.device
        self.ids = prompt.expand(K, -1)
        self.finished: list[Beam] = []
        self.done = False
        self._params, self._limit, self._adjust = params, limit, adjust
        self._ends = torch.tensor(sorted(eos_ids), dtype=torch.int64, device=device)
        self._candidates = K * max(2, 1 + len(eos_ids))
        self._totals = torch.full((K,), NEVER, device=device)
        self._totals[0] = 0.0  # all beams are equal at first, only one of them counts
        self._logprobs = torch.empty(K, 0, device=device)
        self._hopeless = False

    @property
    def length(self) -> int:
        """How many tokens each open beam has."""
        return self._logprobs.shape[1]

    def advance(self, logits: Tensor) -> Tensor:
        """Lengthens every beam by a token, given logits (K, V) -> rows (K,): which beam each is now the continuation
        of.

        VesaliusError where the logits are not finite; UserError where no token is left to take.
        """
        K, V = logits.shape
        own = logits.log_softmax(-1)
        totals = (self._adjust(own, self.ids) + self._totals[:, None]).flatten()  # (K · V,)
        best, places = totals.topk(min(self._candidates, K * V))  # (C,)
        if not best[0].isfinite():
            raise VesaliusError(
                f"the logits after {self.length} new tokens are not finite: the model's weights are broken"
            )
        rows, tokens = places // V, places % V
        ids = torch.cat((self.ids[rows], tokens[:, None]), dim=1)  # (C, T + 1)
        logprobs = torch.cat((self._logprobs[rows], own.flatten()[places, None]), dim=1)  # (C, length + 1)
        at_end = torch.isin(tokens, self._ends)
        closed = at_end | (self.length + 1 >= self._limit)
        self._finish(ids, logprobs, best, at_end, closed)
        self._totals, kept = (best + NEVER * closed).topk(K)
        self.ids, self._logprobs = ids[kept], logprobs[kept]
        self._judge(all_closed=bool(closed.all()))
        return rows[kept]

    def _finish(self, ids: Tensor, logprobs: Tensor, totals: Tensor, at_end: Tensor, closed: Tensor) -> None:
        """Takes those of the first K candidates that are closed for answers, unless no more are wanted."""
        K = self._params.num_beams
        if self._hopeless or (self._params.early_stopping is True and self._full):
            return
        new = [
            Beam(
                ids=ids[i, -logprobs.shape[1] :].tolist(),
                logprobs=logprobs[i].tolist(),
                score=float(totals[i]) / logprobs.shape[1] ** self._params.length_penalty,
                ended=bool(at_end[i]),
            )
            for i in closed[:K].nonzero().flatten().tolist()
        ]
        self.finished = sorted(self.finished + new, key=lambda beam: -beam.score)[:K]

    def _judge(self, *, all_closed: bool) -> None:
        """Whether to go on: not where every beam is closed, nor where none that is open looks better than the answers.

        The best open beam is judged by the score that it would have now; "never" asks for the score that it could reach
        at most, were all its further tokens certain.
        """
        asked = self._params
        at_best = self._limit if asked.early_stopping == "never" and asked.length_penalty > 0 else self.length
        possible = float(self._totals[0]) / at_best**asked.length_penalty
        worst = self.finished[-1].score if self._full else NEVER
        self._hopeless = self._hopeless or possible <= worst
        self.done = self._hopeless or all_closed or (asked.early_stopping is True and self._full)

    @property
    def _full(self) -> bool:
        return len(self.finished) == self._params.num_beams
