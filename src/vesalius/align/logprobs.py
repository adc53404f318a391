"""log p of given tokens: what every method that compares or rewards answers is made of.

    log p(y_t | y_<t) = logit(y_t) - log Σ_v exp(logit(v)),    H_t = -Σ_v p(v) log p(v)

Only positions that have a target reach the head, so prompts and padding cost nothing there, and the head's output
exists a chunk of rows at a time (train/head_chunks): of each row its log-normaliser is kept, and the backward pass
multiplies the chunk again. ∂log p(y)/∂logit = onehot(y) - p and ∂H/∂logit = -p · (log p + H).

Cross-entropy needs no second product (train/head_loss), because it knows in the forward pass what its gradient will be
multiplied by; here that depends on the other answers of the batch.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from vesalius.data.batch import IGNORE
from vesalius.kernels.linear import linear
from vesalius.models.transformer import Transformer
from vesalius.train.head_chunks import HeadSettings, accumulate, chunks, head_input, head_logits, head_slope
from vesalius.train.objectives import has_plain_head


def token_logprobs(
    model: Transformer, tokens: Tensor, targets: Tensor, positions: Tensor | None = None, *, temperature: float = 1.0
) -> Tensor:
    """log p(target) at each position, (B, T) float32 nats, 0 where the target is IGNORE; differentiable.

    tokens, targets and positions (B, T) as in data.Batch: the target is the token to predict at its position. The
    logits are divided by `temperature` first, as a sampler does.
    """
    logp, _ = _from_hidden(model, model.model(tokens, positions), targets, temperature, wants_entropy=False)
    return logp


def hidden_logprobs_and_entropy(
    model: Transformer, hidden: Tensor, targets: Tensor, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """log p as in `token_logprobs`, from hidden states (…, D) and targets (…), and the entropy (…) of the
    distributions that it is taken from, 0 where the target is IGNORE. Both are differentiable."""
    logp, entropy = _from_hidden(model, hidden, targets, temperature, wants_entropy=True)
    assert entropy is not None, "it was asked for"
    return logp, entropy


@torch.compiler.disable  # how many rows have a target differs from batch to batch
def _from_hidden(
    model: Transformer, hidden: Tensor, targets: Tensor, temperature: float, *, wants_entropy: bool
) -> tuple[Tensor, Tensor | None]:
    wanted = (targets.flatten() != IGNORE).nonzero().squeeze(1)  # (N,)
    x = hidden.flatten(0, -2).index_select(0, wanted)  # (N, D)
    chosen = targets.flatten().index_select(0, wanted)
    if has_plain_head(model):
        config = model.config
        settings = HeadSettings(
            logits_scaling=config.logits_scaling, softcap=config.final_logit_softcapping, temperature=temperature
        )
        logp, spread = _HeadLogprobs.apply(head_input(x), model.lm_head.weight, chosen, settings, wants_entropy)
    else:
        logp, spread = _replaced_head_logprobs(model, x, chosen, temperature)

    def back(values: Tensor) -> Tensor:
        return torch.zeros(targets.numel(), device=x.device).index_copy(0, wanted, values).view(targets.shape)

    return back(logp), None if spread is None else back(spread)


class _HeadLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, settings: HeadSettings, wants_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        """x (N, D), weight (V, D), targets (N,) -> log p and the entropy, (N,) each."""
        matrix = weight.to(x.dtype)
        log_z, logp = (torch.zeros(len(x), device=x.device) for _ in range(2))
        entropy = torch.zeros_like(logp) if wants_entropy else None
        for part in chunks(len(x), len(weight)):
            logits = head_logits(x[part], matrix, settings)  # (rows, V)
            log_z[part] = logits.logsumexp(-1)
            logp[part] = logits.gather(1, targets[part, None])[:, 0] - log_z[part]
            if entropy is not None:
                log_p = logits.sub_(log_z[part, None])
                entropy[part] = -(log_p.exp() * log_p).sum(-1)
        ctx.save_for_backward(x, weight, targets, log_z, entropy)
        ctx.settings = settings
        ctx.set_materialize_grads(False)
        return logp, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_logp: Tensor | None, of_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, targets, log_z, entropy = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        matrix = weight.to(x.dtype)
        grad_x = torch.zeros_like(x) if wants_x else None
        grad_weight = torch.zeros_like(weight) if wants_weight else None
        for part in chunks(len(x), len(weight)):
            logits = head_logits(x[part], matrix, ctx.settings)  # (rows, V)
            slope = head_slope(logits, ctx.settings)
            log_p = logits.sub_(log_z[part, None])
            gradient = torch.zeros_like(log_p) if of_logp is None else log_p.exp().mul_(-of_logp[part, None])
            if of_entropy is not None:
                gradient -= log_p.exp() * (log_p + entropy[part, None]) * of_entropy[part, None]
            if of_logp is not None:
                gradient.scatter_add_(1, targets[part, None], of_logp[part, None])
            gradient = (gradient if slope is None else gradient.mul_(slope)).to(x.dtype)
            if grad_x is not None:
                grad_x[part] = linear(gradient, matrix.T)
            if grad_weight is not None:
                accumulate(grad_weight, gradient, x[part])
        return grad_x, grad_weight, None, None, None


def _replaced_head_logprobs(
    model: Transformer, x: Tensor, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """The same for a head that is called as it is: torch keeps a chunk's input and computes the chunk again."""

    def of_chunk(x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        log_p = (model.logits(x) / temperature).log_softmax(-1)  # (rows, V)
        return log_p.gather(1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)

    parts = [
        checkpoint(of_chunk, x[part], targets[part], use_reentrant=False)
        for part in chunks(len(x), model.config.vocab_size)
    ]
    logp, entropy = zip(*parts, strict=True) if parts else ((x.new_zeros(0),), (x.new_zeros(0),))
    return torch.cat(logp), torch.cat(entropy)
