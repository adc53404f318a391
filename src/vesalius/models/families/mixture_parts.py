"""What the families with a mixture of experts have in common: settings and weight names.

`capacity_factor` is our own key in all of them: it matters in training only, and transformers passes over it.
"""

from vesalius.core.errors import UserError
from vesalius.models.config_sections import Mixture
from vesalius.models.families.published import Published
from vesalius.models.weight_map import Rule, stacked_experts

LAYER_MLP = "model.layers.{}.mlp."


def whole(published: Published, name: str, default: int | None = None) -> int:
    """A whole number; UserError where it is missing and has no default, or is something else."""
    value = published.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"config.json has {name} = {value!r}, expected a whole number: is the file complete?")
    return value


def number(published: Published, name: str, default: float) -> float:
    """A number, or the default where it is missing or null; UserError where it is something else."""
    value = default if (value := published.get(name)) is None else value
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"config.json has {name} = {value!r}, expected a number: is the file complete?")
    return float(value)


def capacity_factor(published: Published) -> float:
    """Our own key; 0 where it is not given."""
    return number(published, "capacity_factor", 0.0)


def written_capacity(mixture: Mixture) -> Published:
    """The way back; nothing where nothing is dropped."""
    return {"capacity_factor": mixture.capacity_factor} if mixture.capacity_factor else {}


def dense_layers(published: Published, layers: int) -> tuple[int, ...]:
    """Qwen's layers without a mixture: those of `mlp_only_layers`, and all but every `decoder_sparse_step`-th."""
    named, step = published.get("mlp_only_layers") or [], whole(published, "decoder_sparse_step", 1)
    if not isinstance(named, list) or step < 1:
        raise UserError(
            f"config.json has mlp_only_layers = {named!r} and decoder_sparse_step = {step}, "
            "expected a list of layers and a number from 1"
        )
    return tuple(i for i in range(layers) if i in named or (i + 1) % step)


def expert_rules(theirs: str, gate: str, up: str, down: str) -> tuple[Rule, ...]:
    """One tensor for each expert, `theirs` + "0." + `gate` and so on, as our stacked ones."""
    names = {gate: "gate_proj", up: "up_proj", down: "down_proj"}
    return tuple(
        stacked_experts(f"{theirs}{{expert}}.{name}.weight", f"{LAYER_MLP}experts.{ours}")
        for name, ours in names.items()
    )


PER_EXPERT = expert_rules(LAYER_MLP + "experts.", "gate_proj", "up_proj", "down_proj")
"""As Qwen and DeepSeek call them."""
