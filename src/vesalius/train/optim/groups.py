"""Which parameters are treated alike, told from names and shapes.

matrix     weights inside the network, two dimensions and up: decay; Muon's when Muon is chosen
embedding  token and position tables, the heads: a step touches few rows, so rate and decay may be their own
vector     norms, anything with one dimension, biases (those of experts are stacked): never decay, it would only pull
           scales to 0
"""

from typing import Any, Literal

from torch import Tensor, nn

HEADS = {"lm_head", "score"}
"""Modules that read the last hidden states out: of the next token, and of a reward (align/scoring/model)."""

Role = Literal["matrix", "embedding", "vector"]


def role(name: str, parameter: Tensor) -> Role:
    """The role of a parameter by its name in the model and its shape.

    >>> import torch
    >>> role("model.layers.0.mlp.up_proj.weight", torch.empty(8, 4)), role("model.norm.weight", torch.empty(8))
    ('matrix', 'vector')
    """
    if parameter.ndim < 2 or name.endswith("bias"):
        return "vector"
    parts = name.split(".")
    return "embedding" if HEADS & {*parts} or any(part.startswith("embed") for part in parts) else "matrix"


def parameter_groups(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    embedding_learning_rate: float | None = None,
    embedding_weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """The trainable parameters of `model` as optimizer groups, one for each role that occurs.

    `embedding_learning_rate` is the rate of embeddings, head and vectors, and `embedding_weight_decay` the decay of
    embeddings and head; None: the same as the matrices'.
    """
    rate = learning_rate if embedding_learning_rate is None else embedding_learning_rate
    decay = weight_decay if embedding_weight_decay is None else embedding_weight_decay
    settings: dict[Role, tuple[float, float]] = {
        "matrix": (learning_rate, weight_decay),
        "embedding": (rate, decay),
        "vector": (rate, 0.0),
    }
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [(n, p) for n, p in named if role(n, p) == kind], "role": kind, "lr": lr, "weight_decay": wd}
        for kind, (lr, wd) in settings.items()
    ]
    return [group for group in groups if group["params"]]
