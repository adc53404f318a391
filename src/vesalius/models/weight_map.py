"""Weight names: a published checkpoint's tensors as ours, and ours as the published ones.

A rule takes some tensors of one side and gives some of the other; what no rule names is called the same on both. Most
rules rename, cut a fused matrix into rows, or stack experts. Cutting rows gives views, so memory-mapped weights stay
where they are; fused heads and stacked experts are copied. In names `{}` stands for the number of a layer and
`{expert}` for that of an expert: one such name is as many tensors as there are experts.

Every rule moves numbers without changing them, so gradients map like weights.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vesalius.core.errors import UserError
from vesalius.models.config import ModelConfig

Tensors = tuple[Tensor, ...]
Turn = Callable[[Tensors, ModelConfig], Tensors]
"""Some tensors, in the order of their names, as others, in the order of theirs."""

Sizes = Callable[[ModelConfig], tuple[int, ...]]

LAYER, EXPERT = "{}", "{expert}"

HEAD = "lm_head."

IGNORED = (r"rotary_emb\.inv_freq$",)
"""Tensors that old checkpoints of any family carry though they follow from the config."""


@dataclass(frozen=True)
class Rule:
    """Tensors called `theirs` are tensors called `ours`: `split` turns the former into the latter, `join` back.

    A rule applies to a layer where all of its names are there, so one that names biases is no demand for biases.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    split: Turn
    join: Turn

    def names(self, config: ModelConfig, layers: Iterable[int] | None = None) -> Iterator[tuple[list[str], list[str]]]:
        """Their names and ours, once for every layer, or for these, or once where no layer is named."""
        if not any(LAYER in name for name in self.theirs + self.ours):
            layers = (0,)
        for layer in range(config.num_hidden_layers) if layers is None else layers:
            yield _expand(self.theirs, layer, config), _expand(self.ours, layer, config)


@dataclass(frozen=True, kw_only=True)
class WeightMap:
    """The rules of one family.

    base     what the names of the model's body start with; a checkpoint of the body alone leaves it out
    ignored  regular expressions of names that hold nothing the model needs
    aliases  (regular expression, replacement): how else the names are spelled in some published files
    """

    rules: tuple[Rule, ...] = ()
    base: str = "model."
    ignored: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()

    def to_ours(
        self, published: Mapping[str, Tensor], config: ModelConfig, layers: Iterable[int] | None = None
    ) -> dict[str, Tensor]:
        """Our names and shapes; a name that no rule knows stays as it is. `layers`: those that tensors are given of,
        all by default."""
        given = self._completed(published)
        pairs = [(rule.split, theirs, ours) for rule in self.rules for theirs, ours in rule.names(config, layers)]
        return _turned(given, pairs, config)

    def to_published(self, ours: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        """The names and shapes of a published checkpoint."""
        pairs = [(rule.join, mine, theirs) for rule in self.rules for theirs, mine in rule.names(config)]
        return _turned(ours, pairs, config)

    def cut(self, name: str, tensor: Tensor, config: ModelConfig) -> dict[str, Tensor]:
        """One published tensor, or one with rows like it, as ours; nothing where no rule takes it alone."""
        for rule in self.rules:
            for theirs, ours in rule.names(config):
                if theirs == [name]:
                    return dict(zip(ours, _apply(rule.split, theirs, {name: tensor}, config), strict=True))
        return {}

    def published_name(self, name: str, config: ModelConfig) -> str:
        """What a checkpoint calls our tensor `name`, or the tensor that it is part of."""
        for rule in self.rules:
            for theirs, ours in rule.names(config):
                if name in ours:
                    return theirs[ours.index(name) if len(theirs) == len(ours) else 0]
        return name

    def _completed(self, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without what is ignored, and with the base in front of every name of the body."""
        ignored = re.compile("|".join(IGNORED + self.ignored))
        kept = {self._spelled(name): tensor for name, tensor in published.items() if not ignored.search(name)}
        if any(name.startswith(self.base) for name in kept):
            return kept
        return {name if name.startswith(HEAD) else self.base + name: tensor for name, tensor in kept.items()}

    def _spelled(self, name: str) -> str:
        for pattern, replacement in self.aliases:
            name = re.sub(pattern, replacement, name)
        return name


def _turned(
    given: Mapping[str, Tensor], pairs: list[tuple[Turn, list[str], list[str]]], config: ModelConfig
) -> dict[str, Tensor]:
    """Every pair (turn, names to take, names to give) whose names are all there, and what no pair took."""
    taken: set[str] = set()
    made: dict[str, Tensor] = {}
    for turn, take, give in pairs:
        if all(name in given for name in take):
            made.update(zip(give, _apply(turn, take, given, config), strict=True))
            taken.update(take)
    return {name: tensor for name, tensor in given.items() if name not in taken} | made


def _apply(turn: Turn, names: list[str], given: Mapping[str, Tensor], config: ModelConfig) -> Tensors:
    """UserError for tensors of a damaged or foreign file, which can't be cut or stacked."""
    tensors = tuple(given[name] for name in names)
    try:
        return turn(tensors, config)
    except (RuntimeError, IndexError) as error:  # what torch raises for shapes
        shapes = " and ".join(sorted({str(tuple(tensor.shape)) for tensor in tensors}))
        raise UserError(
            f"{names[0]} is {shapes}, which its config.json does not imply: they don't belong together"
        ) from error


def _expand(names: tuple[str, ...], layer: int, config: ModelConfig) -> list[str]:
    names = tuple(name.replace(LAYER, str(layer)) for name in names)
    experts = range(config.mixture.num_experts if config.mixture else 0)
    lists = [[name.replace(EXPERT, str(i)) for i in experts] if EXPERT in name else [name] for name in names]
    return [name for some in lists for name in some]


def rename(theirs: str, ours: str) -> Rule:
    """The same tensor under another name."""
    return Rule((theirs,), (ours,), _same, _same)


def renames(names: Mapping[str, str], endings: tuple[str, ...] = (".weight", ".bias")) -> tuple[Rule, ...]:
    """Their module -> our module, for each of the endings that a parameter of it may have."""
    return tuple(rename(theirs + ending, ours + ending) for theirs, ours in names.items() for ending in endings)


def transposed(theirs: str, ours: str) -> Rule:
    """A matrix that they store as (in, out), as GPT-2's Conv1D does."""
    return Rule((theirs,), (ours,), _transpose, _transpose)


def fused_rows(theirs: str, ours: tuple[str, ...], sizes: Sizes) -> Rule:
    """One matrix or bias whose rows are ours, one below the other; `sizes` says how many rows each has."""
    return Rule(
        (theirs,), ours, lambda given, config: given[0].split(sizes(config)), lambda mine, _: (torch.cat(mine),)
    )


def fused_columns(theirs: str, ours: tuple[str, ...], sizes: Sizes) -> Rule:
    """One matrix that they store as (in, out), whose columns are our rows."""
    return Rule(
        (theirs,),
        ours,
        lambda given, config: given[0].mT.split(sizes(config)),
        lambda mine, _: (torch.cat(mine).mT,),
    )


def fused_heads(theirs: str, ours: tuple[str, ...]) -> Rule:
    """One matrix or bias whose rows stand head by head: (H · parts · E, …) is `parts` times our (H · E, …)."""

    def split(given: Tensors, config: ModelConfig) -> Tensors:
        heads = given[0].unflatten(0, (config.num_attention_heads, len(ours), -1))  # (H, parts, E, …)
        return tuple(part.flatten(0, 1) for part in heads.unbind(1))

    def join(mine: Tensors, config: ModelConfig) -> Tensors:
        heads = [part.unflatten(0, (config.num_attention_heads, -1)) for part in mine]
        return (torch.stack(heads, dim=1).flatten(0, 2),)

    return Rule((theirs,), ours, split, join)


def stacked_experts(theirs: str, ours: str) -> Rule:
    """One tensor of every expert, `{expert}` in `theirs`, as one of ours with the experts in front."""
    return Rule((theirs,), (ours,), lambda given, _: (torch.stack(given),), lambda mine, _: mine[0].unbind())


def qkv_rows(config: ModelConfig) -> tuple[int, ...]:
    """How many rows queries, keys and values have."""
    keys = config.num_key_value_heads * config.head_dim
    return config.num_attention_heads * config.head_dim, keys, keys


def gate_up_rows(config: ModelConfig) -> tuple[int, ...]:
    """How many rows the gate and the up projection of a gated MLP have."""
    return config.intermediate_size, config.intermediate_size


def _same(tensors: Tensors, _: ModelConfig) -> Tensors:
    return tensors


def _transpose(tensors: Tensors, _: ModelConfig) -> Tensors:
    return tuple(tensor.mT for tensor in tensors)
