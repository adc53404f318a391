"""Linear layers over NF4 weights, put into a built model in place of its linear layers: the frozen base of QLoRA.
Dettmers et al. 2023, arXiv:2305.14314, section 3, equation 5.

A layer keeps four bits a weight and its scales; products make floats of some rows at a time, forward and backward
(kernels/frozen_product.py), in the type that the layer's input has: bfloat16 under autocast, else float32. Adapters
beside it are trained, it is not. Embedding and head stay floats, as in the paper. Left out: paged optimizer states, for
adapters have few.
"""

import torch
from torch import Tensor, nn

from vesalius.compress.dynamic_codes import DynamicCodes
from vesalius.compress.nf4 import NF4Matrix
from vesalius.compress.packed_module import PackedModule
from vesalius.compress.quantised_experts import QuantisedExperts
from vesalius.compress.quantised_linear import QuantisedEmbedding, QuantisedLinear
from vesalius.core.errors import UserError
from vesalius.kernels.frozen_product import frozen_product
from vesalius.models.transformer import Layers, Transformer


class NF4Linear(PackedModule):
    """x (…, in_features) -> (…, out_features) in x's dtype, or in autocast's."""

    packed_names = ("codes", "scale_codes", "scale_steps", "scale_mean")
    codes: Tensor
    scale_codes: Tensor
    scale_steps: Tensor
    scale_mean: Tensor

    def __init__(self, matrix: NF4Matrix, bias: Tensor | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = matrix.columns, matrix.rows
        if bias is not None and bias.shape != (matrix.rows,):
            raise ValueError(f"bias must have shape ({matrix.rows},), got {tuple(bias.shape)}")
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        tensors = matrix.codes, matrix.scales.codes, matrix.scales.steps, matrix.scales.mean
        for name, tensor in zip(self.packed_names, tensors, strict=True):
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))

    @classmethod
    def from_floats(cls, weight: Tensor, bias: Tensor | None = None) -> "NF4Linear":
        """weight (out_features, in_features). ValueError for what is not finite."""
        return cls(NF4Matrix.quantise(weight), bias)

    @property
    def matrix(self) -> NF4Matrix:
        """The packed weights, which are frozen parameters of this layer."""
        scales = DynamicCodes(self.scale_codes, self.scale_steps, self.scale_mean)
        return NF4Matrix(self.out_features, self.in_features, self.codes, scales)

    @property
    def device(self) -> torch.device:
        return self.codes.device

    @property
    def shape(self) -> tuple[int, ...]:
        return self.out_features, self.in_features

    def dequantise(self) -> Tensor:
        return self.matrix.dequantise()

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        y = frozen_product(x, self.matrix)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, format=nf4"


def install_nf4(model: Transformer) -> int:
    """Puts NF4 layers in place of the model's linear layers, float or quantised, and floats in place of what else is
    quantised, the embedding and the head -> how many NF4 layers there are.

    One after the other, so that only one of them is there twice. UserError for a mixture's stacks of experts.
    """
    if stack := next((name for name, part in model.named_modules() if isinstance(part, QuantisedExperts)), None):
        raise UserError(f"NF4 is for linear layers, and {stack} is a stack of experts: leave out quantise")
    layers = model.model.layers
    model.model.layers = Layers(layers).train(layers.training)  # faster ways through them hold what they read
    for name, layer in [*model.named_modules()]:
        if isinstance(layer, QuantisedEmbedding):
            model.set_submodule(name, _float_embedding(layer))
        elif name != "lm_head" and isinstance(layer, nn.Linear | QuantisedLinear):
            weight = layer.weight if isinstance(layer, nn.Linear) else layer.dequantise()
            model.set_submodule(name, NF4Linear.from_floats(weight, layer.bias).train(layer.training))
    if isinstance(head := model.lm_head, QuantisedLinear):
        tied = model.config.tie_word_embeddings
        weight = model.model.embed_tokens.weight if tied else nn.Parameter(head.dequantise(), requires_grad=False)
        model.lm_head = _float_head(weight)
    return sum(isinstance(part, NF4Linear) for part in model.modules())


def _float_embedding(packed: QuantisedEmbedding) -> nn.Embedding:
    layer = nn.Embedding(packed.num_embeddings, packed.embedding_dim, device="meta")
    layer.weight = nn.Parameter(packed.dequantise(), requires_grad=False)
    return layer


def _float_head(weight: nn.Parameter) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = weight
    return layer
