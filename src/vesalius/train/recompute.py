"""Activations computed again in the backward pass instead of kept. Chen et al. 2016, arXiv:1604.06174, section 3.

Of each layer only its input is kept, D numbers a token; when its gradient comes, the layer runs once more and keeps
what it needs for as long as that takes. So memory is that of one layer and not of all, for one forward pass more: a
step is about a third longer. Gradients are the same to the last bit, dropout included. Left out: choosing what to keep
within a layer.
"""

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vesalius.models.attention import Context
from vesalius.models.transformer import Decoder, Layers


class RecomputedLayers(Layers):
    """(B, T, D) -> (B, T, D), as the layers that it is made of."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        for layer in self:
            x = checkpoint(layer, x, context, use_reentrant=False)
        return x


@contextlib.contextmanager
def recomputed(module: nn.Module) -> Iterator[None]:
    """Within, every decoder in `module` keeps only its layers' inputs for the backward pass."""
    before = [(part, part.layers) for part in module.modules() if isinstance(part, Decoder)]
    for decoder, layers in before:
        decoder.layers = RecomputedLayers(layers).train(layers.training)
    try:
        yield
    finally:
        for decoder, layers in before:
            decoder.layers = layers
