"""A recipe's conversations: those of training as batches, those held out, and what could not be used."""

from collections.abc import Mapping
from typing import Any

from vesalius.align.rows.encoding import Encoded, encode_conversations
from vesalius.align.sft.replay import encode_replay, with_replay
from vesalius.align.sft.sft import PackedConversations
from vesalius.data.batch import Batch
from vesalius.data.conversation import Conversation
from vesalius.data.conversations import read_conversations
from vesalius.data.documents import read_documents
from vesalius.data.split import split_documents, split_items
from vesalius.pipeline.left_out import tell_left_out
from vesalius.pipeline.life import Life
from vesalius.pipeline.recipe_sections.sft import SftSection
from vesalius.train.config import TrainConfig

QUICK_VALIDATION_TOKENS = 16_384
"""What the curve of a run is measured on; the stage's result is measured on the whole split."""


def split_conversations(life: Life) -> tuple[list[Conversation], list[Conversation]]:
    """The recipe's conversations, those of training and those held out. UserError where none are left to train on."""
    data = life.recipe.data
    specs = [*data.conversations, *life.made_conversations]
    return split_items(read_conversations(specs), data.validation_fraction, "conversations")


def encode_training(life: Life, stage: str, config: TrainConfig, conversations: list[Conversation]) -> Encoded:
    """The conversations as ids; what is left out is told, and what is learned from recorded under the stage's name."""
    encoded = encode_conversations(conversations, life.made[1], config.context)
    tell_left_out(life, stage, len(encoded), encoded.dropped)
    life.add("learned_from", **{stage: _sources(encoded, life.recipe.data.shares)})
    return encoded


def packed(life: Life, config: TrainConfig, encoded: Encoded) -> PackedConversations:
    """Batches of the training side, each source with the share that the recipe gives it."""
    return in_epochs(config, encoded, weights=life.recipe.data.shares)


def replayed(life: Life, config: SftSection, encoded: Encoded) -> PackedConversations:
    """The same with general text among them; how much of it there is stands beside the conversations."""
    documents = split_documents(read_documents(config.replay_text), life.recipe.data.validation_fraction)
    text = (document for side, document in documents if side == "train")
    with life.display.stage("encoding text to replay"):
        replay = encode_replay(text, life.made[1], config.context)
    both, weights = with_replay(encoded, replay, config.replay, life.recipe.data.shares)
    life.add("learned_from", sft=_sources(both, weights))
    return in_epochs(config, both, weights=weights)


def quick_batches(
    life: Life, config: TrainConfig, conversations: list[Conversation], *, tokens: int = QUICK_VALIDATION_TOKENS
) -> list[Batch]:
    """A few batches of held-out conversations, always the same; [] where there are none."""
    if not conversations:
        return []
    source = in_epochs(config, encode_conversations(conversations, life.made[1], config.context))
    return [next(source) for _ in range(max(1, tokens // config.batch_tokens))]


def in_epochs(
    config: TrainConfig, encoded: Encoded, *, weights: Mapping[str, float] | None = None
) -> PackedConversations:
    """Batches in which every conversation comes once an epoch, or with `weights` each source has its share."""
    rows, context, seed = config.batch_rows, config.context, config.seed
    return PackedConversations(encoded, batch_rows=rows, context=context, seed=seed, weights=weights)


def _sources(encoded: Encoded, shares: Mapping[str, float] | None) -> list[dict[str, Any]]:
    """Of each source its conversations, their tokens, and the share of what is trained on."""
    found: list[dict[str, Any]] = []
    lengths, origins = encoded.spans.lengths, list(dict.fromkeys(encoded.origins))
    places = encoded.sources(origins)
    for place, origin in enumerate(origins):
        tokens = int(lengths[places == place].sum())
        part, whole = (tokens, int(lengths.sum())) if shares is None else (shares[origin], sum(shares.values()))
        count = int((places == place).sum())
        found.append({"name": origin, "conversations": count, "tokens": tokens, "share": part / whole})
    return found
