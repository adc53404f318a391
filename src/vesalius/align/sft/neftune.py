"""NEFTune: noise on the embeddings while a model is tuned. Jain et al. 2023, arXiv:2310.05914, algorithm 1.

    x' = x + α / √(L · D) · ε,    ε uniform in (-1, 1), drawn for each number of a sequence of L tokens of width D

so that the noise of a whole sequence has about the same length, α/√3, however long it is. In a packed row L is the
length of each conversation, not of the row. The noise is put on from outside, by a hook on the embedding, and only in
training mode. It comes from torch's own stream, as dropout does, so a resumed run draws what an undisturbed one does.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vesalius.data.batch import Batch
from vesalius.models.transformer import Transformer
from vesalius.train.objectives import Objective


@dataclass(frozen=True, eq=False)
class Noisy:
    """The objective of a model whose embeddings are noisy in training; the paper takes `alpha` of 5, 10 and 15."""

    objective: Objective
    alpha: float

    @torch.compiler.disable  # it changes the model
    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(model, Transformer), "it has an embedding"
        if not model.training:
            return self.objective(model, batch)
        lengths = document_lengths(batch)
        hook = model.model.embed_tokens.register_forward_hook(
            lambda *call: call[-1] + noise(call[-1], lengths, self.alpha)  # the embedding, its input, its output
        )
        try:
            return self.objective(model, batch)
        finally:
            hook.remove()


def noise(embedded: Tensor, lengths: Tensor, alpha: float) -> Tensor:
    """embedded (B, T, D), lengths (B, T) of the sequence that each token is in -> (B, T, D), drawn anew each time."""
    reach = alpha / (lengths * embedded.shape[-1]).sqrt().unsqueeze(-1)  # (B, T, 1)
    return torch.empty_like(embedded).uniform_(-1, 1) * reach.to(embedded.dtype)


def document_lengths(batch: Batch) -> Tensor:
    """(B, T) how many tokens the sequence has in which each token is; the row's, where a row is one.

    >>> tokens, positions = torch.zeros(1, 5), torch.tensor([[0, 1, 0, 1, 2]])
    >>> document_lengths(Batch(tokens=tokens, targets=tokens, positions=positions))
    tensor([[2, 2, 3, 3, 3]])
    """
    if batch.positions is None:
        return torch.full_like(batch.tokens, batch.tokens.shape[1])
    number = (batch.positions == 0).flatten().cumsum(0) - 1  # (B · T,) every row begins with a 0
    return number.bincount()[number].view_as(batch.positions)
