"""The first layers of a model, with its own last norm and head, draft for the whole of it: nothing more to load.
Elhoushi et al. 2024 (LayerSkip), arXiv:2404.16710, section 4; Zhang et al. 2023 (Draft & Verify), arXiv:2309.08168.

The drafter is a model of its own that shares every weight, made from outside: no module knows. A model that was not
trained to be left early is seldom right so, and its head costs as much as for the whole: then the control
(control.py) stops drafting. Left out: sharing the keys and values of the first layers, which are the same.
"""

from dataclasses import replace

from vesalius.compress.fused_layers import FusedLayers, fuse_layers
from vesalius.core.errors import UserError
from vesalius.hub.blank import blank_model
from vesalius.infer.speculative.draft_model import DraftModel
from vesalius.models.transformer import Layers, Transformer


def first_layers(model: Transformer, count: int) -> Transformer:
    """The model that has the first `count` layers of `model` and everything else of it; the weights are shared.

    UserError unless there are more than `count` layers and one at least.
    """
    config = model.config
    if not 1 <= count < config.num_hidden_layers:
        raise UserError(
            f"early_exit:{count}: the model has {config.num_hidden_layers} layers, give a number from 1 to "
            f"{config.num_hidden_layers - 1}"
        )
    early = blank_model(replace(config, num_hidden_layers=count, layer_types=config.layer_types[:count]))
    for name, part in model.model.named_children():
        if name != "layers":
            early.model.add_module(name, part)
    early.model.layers = Layers(list(model.model.layers)[:count])
    early.lm_head = model.lm_head
    if isinstance(model.model.layers, FusedLayers):
        fuse_layers(early)
    return early.train(model.training)


def early_exit(model: Transformer, count: int) -> DraftModel:
    """Drafts with the first `count` layers of the model."""
    return DraftModel(first_layers(model, count), model.config)
