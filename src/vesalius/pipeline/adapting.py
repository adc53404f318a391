"""What stands before and behind the tuning stages of a recipe with [adapter]: an adapter around the model, and what was
learned written twice: as `adapter/` in PEFT's format, and merged into `model/` by each stage.
"""

from pathlib import Path

from vesalius.adapt.merging import fold, is_mergeable
from vesalius.adapt.switch import is_adapted
from vesalius.hub.adapters import save_adapter
from vesalius.pipeline.life import Life


def adapt(life: Life) -> None:
    """Puts the adapter around the model: from here on its parameters are what trains."""
    section, (model, _) = life.recipe.adapter, life.made
    if section is None:
        return
    section.apply(model)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in model.parameters())
    life.run.add_evals(adapter={"kind": section.kind, "trained_parameters": trained, "parameters": total})
    life.display.say(f"{section.kind}: {trained:,} of {total:,} parameters train ({trained / total:.2%})")


def keep_adapter(life: Life) -> None:
    """Saves the adapter that was trained, and goes on with a plain model where it can be merged."""
    model, _ = life.made
    if life.recipe.adapter is None or not is_adapted(model):
        return
    save_adapter(life.run.adapter, model, base=_lasting(life.recipe.model.start))
    if is_mergeable(model):
        fold(model)


def _lasting(start: str | None) -> str | None:
    """A path that holds from everywhere; an alias or a hub id as it is; None for weights that were fresh."""
    return start if start is None or not Path(start).exists() else str(Path(start).resolve())
