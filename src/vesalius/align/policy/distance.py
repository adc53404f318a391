"""How far a policy has gone from its reference, by answers of its own.

    KL(π ‖ π_ref) = E over y ~ π of  Σ_t Σ_v π(v | y_<t) (log π(v | y_<t) - log π_ref(v | y_<t))

At each token the whole distributions are compared, not the token that was drawn (kl.py): the same mean, never negative,
and without the variance of the draw (Rao-Blackwell; Amini et al. 2025, arXiv:2504.10637, section 4). It takes the
logits of both models, so training makes do with the token and this is for what is measured.
"""

import torch
from torch import Tensor

from vesalius.align.policy.batch import PolicyBatch
from vesalius.align.policy.credit import Scores
from vesalius.align.policy.episodes import evaluating
from vesalius.align.policy.reading import Reading
from vesalius.data.batch import IGNORE
from vesalius.models.transformer import Transformer
from vesalius.train.head_chunks import chunks


def answer_kl(scores: Scores, batch: PolicyBatch) -> Tensor:
    """(B,) nats of each answer of a batch, at the temperature of the scores. ValueError without a reference."""
    if scores.reference is None:
        raise ValueError("no reference is kept, so there is nothing to be far from: give the scores one")
    return scores.each(scores.policy, batch, lambda part: _token_kl(scores, part)).sum(1)


def _token_kl(scores: Scores, part: Reading) -> Tensor:
    """(R, W), 0 where there is no target."""
    assert scores.reference is not None, "checked before"
    wanted = part.targets != IGNORE
    own = scores.policy.model(part.tokens, part.positions)[wanted]  # (N, D)
    found = torch.zeros(wanted.shape, device=own.device)
    with scores.reference() as reference, evaluating(reference):
        its = reference.model(part.tokens, part.positions)[wanted]
    parts: list[Tensor] = []
    for chunk in chunks(len(own), scores.policy.config.vocab_size):
        log_p = _log_softmax(scores.policy, own[chunk], scores.temperature)  # (rows, V)
        with scores.reference() as reference:
            log_q = _log_softmax(reference, its[chunk], scores.temperature)
        parts.append((log_p.exp() * (log_p - log_q)).sum(-1))
    return found.masked_scatter_(wanted, torch.cat(parts))


def _log_softmax(model: Transformer, hidden: Tensor, temperature: float) -> Tensor:
    return (model.logits(hidden).float() / temperature).log_softmax(-1)
