"""Distillation of what is inside: the student's hidden states are drawn to the teacher's, layer by layer.

    L = L_distill + w · mean over layer pairs and targets of  MSE(P h_s, h_t)  or  1 - cos(P h_s, h_t)

h are the residual stream's states behind a layer, P a learned matrix for each pair, since the widths may differ. Romero
et al. 2014 (FitNets), arXiv:1412.6550, equation 3; for Transformers, layer by layer, Jiao et al. 2019 (TinyBERT),
arXiv:1909.10351, equation 8; the cosine: Sanh et al. 2019 (DistilBERT), arXiv:1910.01108, section 3. The MSE is mostly
about the few largest numbers of a residual stream, the cosine about its direction.

P is trained with the student, so both travel as one bundle (contract 3), and only the student is kept. Where the widths
are the same P begins as the identity.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vesalius.align.distill.objective import Distill, where_targets_are
from vesalius.data.batch import Batch
from vesalius.models.transformer import Transformer

Distance = Callable[[Tensor, Tensor], Tensor]
"""ours, theirs (N, D) -> (N,)."""


def mse(ours: Tensor, theirs: Tensor) -> Tensor:
    """The mean of (ours - theirs)² over the width."""
    return (ours - theirs).square().mean(-1)


def cosine(ours: Tensor, theirs: Tensor) -> Tensor:
    """1 - cos of the angle between them."""
    return 1 - F.cosine_similarity(ours, theirs, dim=-1)


DISTANCES: dict[str, Distance] = {"mse": mse, "cosine": cosine}


class Matched(nn.Module):
    """A student with one projection for each pair of layers (its own, the teacher's)."""

    def __init__(
        self, student: Transformer, teacher: Transformer, pairs: Sequence[tuple[int, int]], *, seed: int
    ) -> None:
        super().__init__()
        ours, theirs = student.config.hidden_size, teacher.config.hidden_size
        self.student, self.pairs = student, tuple(pairs)
        projections = [nn.Linear(ours, theirs, bias=False) for _ in pairs]
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for projection in projections:
                projection.weight.normal_(std=ours**-0.5, generator=generator)
                if ours == theirs:
                    projection.weight.copy_(torch.eye(ours))
        self.projections = nn.ModuleList(projections).to(next(student.parameters()).device)


def even_pairs(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Each of the student's layers with the teacher's that is as far through it, the last with the last.

    >>> even_pairs(3, 6)
    [(0, 1), (1, 3), (2, 5)]
    """
    return [(layer, -(-(layer + 1) * teacher_layers // student_layers) - 1) for layer in range(student_layers)]


@dataclass(frozen=True, eq=False)
class HiddenMatching:
    """The loss of `distill` and the distance of hidden states, which is the metric "hidden"; the first alone is
    "distilled". `distance` is a name in DISTANCES."""

    distill: Distill
    weight: float
    distance: str = "cosine"

    @torch.compiler.disable  # it hooks into the models
    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(model, Matched), "projections are needed"
        student, teacher = model.student, self.distill.teacher
        ours, theirs = ([pair[side] for pair in model.pairs] for side in (0, 1))
        with behind_layers(teacher, theirs) as wanted:
            teacher_hidden = self.distill.read(batch)
        with behind_layers(student, ours) as found:
            hidden = student.model(batch.tokens, batch.positions)
        loss, metrics = self.distill.of_hidden(student, hidden, teacher_hidden, batch)

        places, _ = where_targets_are(batch)
        distances = [
            DISTANCES[self.distance](projection(_at(found[a], places)).float(), _at(wanted[b], places).float()).mean()
            for (a, b), projection in zip(model.pairs, model.projections, strict=True)
        ]
        apart = torch.stack(distances).mean()
        return loss + self.weight * apart, metrics | {"distilled": loss, "hidden": apart}


@contextlib.contextmanager
def behind_layers(model: Transformer, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Inside, a forward pass leaves the residual stream behind these layers (B, T, D) in the dict, by the layer."""
    found: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        return lambda *call: found.update({layer: call[-1]})  # the block, its input, its output

    hooks = [model.model.layers[layer].register_forward_hook(keep(layer)) for layer in set(layers)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _at(hidden: Tensor, places: Tensor) -> Tensor:
    """(B, T, D) -> (N, D) at these of its B · T positions."""
    return hidden.flatten(0, 1).index_select(0, places)
