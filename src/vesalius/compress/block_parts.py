"""The block that faster ways can stand for: its parts by name, whether it is of that kind, and whether it still is.

Llama's block: norm → attention → residual → norm → gated MLP → residual, all matrices quantised. Who computes such a
block another way (compress/torch_layers, compress/fused_layers) must step aside as soon as somebody listens to one of
its parts, has replaced one, or has given one other weights.
"""

from typing import cast

from torch import nn

from vesalius.compress.quantised_linear import QuantisedLinear
from vesalius.models.attention import Attention
from vesalius.models.blocks import PreNorm
from vesalius.models.layers import ACTIVATIONS, GatedMLP, RMSNorm

MATRICES = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj"}
MATRICES |= {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
NORMS = {"input_norm": "input_layernorm", "post_norm": "post_attention_layernorm"}
QK_NORMS = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}


def is_common(block: nn.Module) -> bool:
    """Whether this is such a block and nothing more: no experts, other norms or activations. Its scores may have soft
    caps or sinks."""
    if type(block) is not PreNorm or type(block.self_attn) is not Attention or type(block.mlp) is not GatedMLP:
        return False
    attention, mlp = block.self_attn, block.mlp
    qk_norms = [type(block.get_submodule(name)) for name in QK_NORMS.values()]
    plain_qk = all(kind is nn.Identity for kind in qk_norms)
    head_qk = all(kind is RMSNorm for kind in qk_norms) and not attention.norms_all_heads
    return (
        all(type(block.get_submodule(name)) is QuantisedLinear for name in MATRICES.values())
        and all(type(block.get_submodule(name)) is RMSNorm for name in NORMS.values())
        and (plain_qk or head_qk)
        and mlp.act is ACTIVATIONS["silu"]
        and all(layer.bias is None for layer in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        and not block.dropout.p
    )


class Parts:
    """The parts of a block as they are now."""

    def __init__(self, block: nn.Module) -> None:
        names = ("self_attn", "mlp", *MATRICES.values(), *NORMS.values(), *QK_NORMS.values())
        parents = [(block.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names]
        parts = [(parent._modules, name, parent.get_submodule(name)) for parent, name in parents]
        # The dicts themselves, which stay the same: asking each module for its own takes ten times as long.
        self._parts = [(at, name, part, part._forward_hooks, part._forward_pre_hooks) for at, name, part in parts]
        # Held, so that addresses of their numbers stay good, and compared, since a layer may take other blocks.
        layers = [cast(QuantisedLinear, block.get_submodule(name)) for name in MATRICES.values()]
        self._matrices = [(layer, layer.matrix) for layer in layers]
        self._block = block

    def are_untouched(self, block: nn.Module) -> bool:
        """Whether this is the block, with every part and matrix that was there, and nobody listens to any."""
        if block is not self._block or block._forward_hooks or block._forward_pre_hooks:
            return False
        for siblings, name, part, hooks, pre_hooks in self._parts:
            if hooks or pre_hooks or siblings[name] is not part:
                return False
        return all(layer.matrix is matrix for layer, matrix in self._matrices)
