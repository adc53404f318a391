"""After a fault: which layer did it begin in? Costs a forward pass at most, and only when something is wrong.

Weights first, since nothing that is computed from broken weights tells anything. Then the fault's own direction: values
go wrong forwards, so the first module with a non-finite output is the culprit; gradients go wrong backwards, so it is
the last parameter, in the order of the forward pass, with a non-finite gradient. A spike is laid to the parameter whose
gradient grew most against its own history.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vesalius.train.anomalies import Fault


@dataclass(frozen=True)
class Culprit:
    """The name of a parameter or module, "" where none stands out; and whether weights are broken, which no skipped
    step heals.
    """

    layer: str
    broken_weights: bool = False


def find_culprit(fault: Fault, model: nn.Module, norms: Tensor, usual_norms: Tensor | None) -> Culprit | None:
    """What weights and gradients tell. norms (P,): gradient norms by model.named_parameters(); usual_norms: before.

    None where the loss is not finite although the weights are: then the forward pass must be watched (`watch_forward`).
    """
    names = [name for name, _ in model.named_parameters()]
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            return Culprit(name, broken_weights=True)
    if fault.kind == "loss":
        return None
    if fault.kind == "gradient":
        broken = torch.isfinite(norms).logical_not().nonzero().flatten().tolist()
        return Culprit(names[broken[-1]] if broken else "")
    growth = norms if usual_norms is None else norms / usual_norms.clamp(min=1e-12)
    return Culprit(names[int(growth.argmax())])


@contextlib.contextmanager
def watch_forward(model: nn.Module) -> Iterator[list[str]]:
    """Inside, the list receives the names of modules whose output is not finite, in the order in which they finish."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and not torch.isfinite(output).all():
                found.append(name)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
