"""Who drafts, by name: what a person writes behind --speculation."""

from collections.abc import Callable

from vesalius.core.errors import UserError, nearest
from vesalius.hub.open import open_model
from vesalius.infer.options import EngineOptions
from vesalius.infer.speculative.draft_model import DraftModel
from vesalius.infer.speculative.early_exit import early_exit
from vesalius.infer.speculative.heads import Heads, MultiTokenHeads
from vesalius.infer.speculative.ngram import Lookup
from vesalius.infer.speculative.proposer import Proposer
from vesalius.infer.speculative.speculation import Speculation
from vesalius.models.transformer import Transformer

NAMES = "ngram, draft:MODEL, early_exit:LAYERS, heads:DIRECTORY"


def proposer_named(name: str, model: Transformer) -> Proposer:
    """The one that the name means, for `model`. UserError for a name that is not known or misses its second half.

    ngram             what followed these words before, in this prompt and answer
    draft:MODEL       a smaller model with the same vocabulary, by any name that `load` takes
    early_exit:K      the first K layers of the model itself
    heads:DIRECTORY   heads trained for the model
    """
    kind, _, argument = name.partition(":")
    if kind not in KINDS:
        raise UserError(f"unknown speculation {name!r}, {nearest(kind, KINDS)} (forms: {NAMES})")
    if bool(argument) != (kind != "ngram"):
        raise UserError(f"speculation {name!r}: expected one of {NAMES}")
    return KINDS[kind](model, argument)


def speculation_of(options: EngineOptions, model: Transformer) -> Speculation | None:
    """What an engine's options ask for. UserError as in `proposer_named`."""
    if options.speculation is None:
        return None
    return Speculation(proposer_named(options.speculation, model), most=options.speculated)


def _draft_model(model: Transformer, argument: str) -> Proposer:
    return DraftModel(open_model(argument)[0], model.config)


def _early_exit(model: Transformer, argument: str) -> Proposer:
    if not argument.isdecimal():
        raise UserError(f"early_exit:{argument}: expected a number of layers, for example early_exit:4")
    return early_exit(model, int(argument))


def _heads(model: Transformer, argument: str) -> Proposer:
    return Heads(model, MultiTokenHeads.load(argument, model.config.hidden_size))


KINDS: dict[str, Callable[[Transformer, str], Proposer]] = {
    "ngram": lambda *_: Lookup(),
    "draft": _draft_model,
    "early_exit": _early_exit,
    "heads": _heads,
}
