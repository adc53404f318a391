"""The stages, in the order in which they run. Each one finds out whether its work is done already, so that a resumed
run passes quickly.

    text → tokenizer → shards → [train] → [adapter] → [sft] → [distill] → [dpo] → [kto] → [grpo] → [ppo]
    → [reward] | [prm] → [heads] → [eval]

[best_of_n], [star], [constitution] and [self_rewarding] make data before the stages that train on it. [panel] measures
the model before the first stage behind [train] and after the last.

Whatever a stage makes is complete or absent: the tokenizer and the shards appear by a rename, training goes on from its
newest checkpoint.
"""

from collections.abc import Callable, Iterator

import torch

from vesalius.adapt.merging import fold
from vesalius.adapt.switch import is_adapted
from vesalius.compress.nf4_linear import install_nf4
from vesalius.data.documents import read_documents
from vesalius.data.shard_writing import write_shards
from vesalius.data.shards import read_index
from vesalius.data.split import split_documents
from vesalius.hub.open import open_model
from vesalius.hub.unpacking import is_quantised, unpacked
from vesalius.models.transformer import Transformer
from vesalius.pipeline.adapting import adapt, keep_adapter
from vesalius.pipeline.distill import distill, prepare_student
from vesalius.pipeline.evaluation import answer_before, describe_model, evaluate, sample_base
from vesalius.pipeline.heads import train_heads
from vesalius.pipeline.life import Life
from vesalius.pipeline.making import check_tasks, make_conversations, make_pairs
from vesalius.pipeline.panel import panel_after, panel_before
from vesalius.pipeline.policy import grpo, ppo
from vesalius.pipeline.preference import dpo, kto
from vesalius.pipeline.prm import prm
from vesalius.pipeline.reward import reward
from vesalius.pipeline.training import pretrain, tune
from vesalius.tokenizers.kinds import train_tokenizer
from vesalius.tokenizers.tokenizer import Tokenizer


def prepare(life: Life) -> None:
    """Opens the model that the recipe starts from, or learns a tokenizer and draws fresh weights."""
    section = life.recipe.model
    if section.start is not None:
        trains, adapter = life.recipe.tuning is not None, life.recipe.adapter
        if adapter is not None and adapter.quantise and not life.recipe.train:
            opened = open_packed(section.start)
        else:
            opened = open_start(section.start, life.display.say) if trains else open_model(section.start)
        life.model, life.tokenizer = opened
    else:
        life.tokenizer = learn_tokenizer(life)
        first = life.recipe.tuning
        assert first is not None, "the recipe was checked"
        config = section.build(life.tokenizer.vocab_size, first.context)
        life.model = Transformer(config, seed=first.seed)
    if is_quantised(life.model):
        life.device = "cpu"  # where its products are
    life.model.to(life.device)
    describe_model(life)


def open_start(reference: str, say: Callable[[str], None]) -> tuple[Transformer, Tokenizer]:
    """The model that training goes on from, by any name that `open_model` takes. One of a GGUF file is unpacked into
    floats, which `say` is told with the memory that they take; an adapter's is the base with the adapter merged."""
    model, tokenizer = open_model(reference)
    if is_quantised(model):
        model = unpacked(model, torch.float32)
        needed = sum(parameter.nbytes for parameter in model.parameters())
        say(f"{reference}: quantised weights as float32, {needed / 1e6:,.0f} MB, since only floats can be trained")
    elif is_adapted(model):
        fold(model)
    return model.requires_grad_(True), tokenizer


def open_packed(reference: str) -> tuple[Transformer, Tokenizer]:
    """The same in four bits, for an adapter around it: at no time are all weights floats that were not before."""
    model, tokenizer = open_model(reference)
    if is_adapted(model):
        fold(model)
    install_nf4(model)
    return model, tokenizer


def learn_tokenizer(life: Life) -> Tokenizer:
    """The run's tokenizer, learned from the training side of the text if it is not there yet."""
    section = life.recipe.tokenizer
    assert section is not None, "the recipe was checked"
    if not (life.run.tokenizer / "tokenizer.json").exists():
        with life.timed("tokenizer"), life.display.stage("learning a tokenizer", section.size) as advance:
            train_tokenizer(section.kind, _training_texts(life), section.size, advance).save(life.run.tokenizer)
    return Tokenizer.open(life.run.tokenizer)


def _training_texts(life: Life) -> Iterator[str]:
    data = life.recipe.data
    documents = split_documents(read_documents(data.text), data.validation_fraction)
    return (document.text for side, document in documents if side == "train")


def encode(life: Life) -> None:
    """Turns the text into token shards, where there is text."""
    data, (_, tokenizer) = life.recipe.data, life.made
    if not data.text:
        return
    if not (life.run.data / "index.json").exists():
        with life.timed("encode"), life.display.stage("encoding text") as advance:
            write_shards(
                read_documents(data.text),
                tokenizer,
                life.run.data,
                validation_fraction=data.validation_fraction,
                specs=data.text,
                on_progress=advance,
            )
    index = read_index(life.run.data, tokenizer)
    life.run.add_evals(
        corpus={
            "documents": index.train.documents,
            "bytes": index.train.bytes,
            "tokens": index.train.tokens,
            "validation_documents": index.validation.documents,
            "validation_bytes": index.validation.bytes,
            "validation_tokens": index.validation.tokens,
        }
    )


STAGES: tuple[Callable[[Life], None], ...] = (
    prepare,
    encode,
    pretrain,
    sample_base,
    make_conversations,
    panel_before,
    prepare_student,
    answer_before,
    adapt,
    tune,
    check_tasks,
    distill,
    make_pairs,
    dpo,
    kto,
    grpo,
    ppo,
    reward,
    prm,
    keep_adapter,
    panel_after,
    train_heads,
    evaluate,
)
