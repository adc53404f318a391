"""The weights of a model whose matrices may be quantised or adapted: as blocks in any format, or in one float model."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vesalius.adapt.adapted_linear import AdaptedLinear
from vesalius.adapt.merging import is_mergeable
from vesalius.adapt.switch import adapted_layers
from vesalius.compress.quantised_experts import QuantisedExperts
from vesalius.compress.quantised_module import QuantisedModule
from vesalius.core.errors import UserError
from vesalius.hub.blank import blank_model
from vesalius.kernels.block_formats import BlockTensor
from vesalius.models.positions import DerivedBuffers
from vesalius.models.transformer import Transformer

HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Weight:
    """One weight, read only when it is asked for."""

    source: Tensor | QuantisedModule | AdaptedLinear

    @property
    def shape(self) -> tuple[int, ...]:
        if isinstance(self.source, AdaptedLinear):
            return self.source.out_features, self.source.in_features
        return tuple(self.source.shape)

    def values(self) -> Tensor:
        """As a float tensor; float32 where it was quantised, with the adapters in it where there are some."""
        if isinstance(self.source, AdaptedLinear):
            return self.source.weight.detach()
        return self.source.dequantise() if isinstance(self.source, QuantisedModule) else self.source.detach()

    def blocks(self, format: str) -> BlockTensor:
        """As blocks of this format: the very same where it is quantised in it already."""
        if isinstance(self.source, QuantisedModule) and self.source.format == format:
            return self.source.blocks()
        return BlockTensor.quantise(self.values().cpu(), format)


def weights_of(model: Transformer) -> dict[str, Weight]:
    """The weights under the names of a float model's state_dict; a tied head is left out.

    UserError where adapters are in use that are no change of the weights.
    """
    if not is_mergeable(model):
        raise UserError("the model's adapter is no change of its weights: save it beside the model, by save_model")
    layers = adapted_layers(model)
    inner = tuple(f"{path}." for path in layers)
    weights = {name: Weight(parameter) for name, parameter in model.named_parameters(remove_duplicate=False)}
    weights |= {name: Weight(buffer) for name, buffer in kept_buffers(model).items()}
    for path, module in model.named_modules():
        if isinstance(module, QuantisedModule):
            weights[path if isinstance(module, QuantisedExperts) else f"{path}.weight"] = Weight(module)
    if layers:
        weights = {name: weight for name, weight in weights.items() if not name.startswith(inner)}
    for path, layer in layers.items():
        weights[f"{path}.weight"] = Weight(layer)
        if (bias := layer.bias) is not None:
            weights[f"{path}.bias"] = Weight(bias)
    if model.config.tie_word_embeddings:
        weights.pop(HEAD, None)
    return weights


def kept_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that a state_dict holds, such as a router's correction bias: float32 whatever the weights are in."""
    owners = {path: module for path, module in model.named_modules() if not isinstance(module, DerivedBuffers)}
    return {
        f"{path}.{name}": buffer
        for path, owner in owners.items()
        for name, buffer in owner.named_buffers(recurse=False)
    }


def is_quantised(model: nn.Module) -> bool:
    """Whether any layer holds its weights in blocks."""
    return any(isinstance(module, QuantisedModule) for module in model.modules())


def unpacked(model: Transformer, dtype: torch.dtype | None = None) -> Transformer:
    """The same model with plain float layers; `dtype` None keeps what there is, float32 where it was quantised."""
    plain = blank_model(model.config)
    values = {name: weight.values() for name, weight in weights_of(model).items()}
    exact = kept_buffers(plain)
    weights = {name: tensor if name in exact else tensor.to(dtype or tensor.dtype) for name, tensor in values.items()}
    plain.load_state_dict(weights, strict=False, assign=True)
    if model.config.tie_word_embeddings:
        plain.lm_head.weight = plain.model.embed_tokens.weight
    return plain
