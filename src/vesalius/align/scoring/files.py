"""Scoring models as Hugging Face directories: hub/directory's files, with `score.weight` in place of an output head.

config.json names …ForSequenceClassification for one label and …ForTokenClassification for two, so transformers opens
what is saved here and what it saves opens here, in every family whose classifiers call their head `score` (Llama,
Qwen, Mistral, Gemma, Phi-3 and their mixtures; GPT-2's and GPT-NeoX's do for sequences).

transformers reads a sequence's score at its last token that is no padding, so the id of padding must be one that no
answer ends with: the first special token that ends nothing.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vesalius.align.scoring.model import REWARD, STEPS, ScoringModel
from vesalius.core.errors import UserError
from vesalius.core.files import atomic_path, write_json
from vesalius.hub.directory import CONFIG, find_model
from vesalius.hub.json_object import read_object
from vesalius.hub.unpacking import module_weights
from vesalius.hub.weights import WEIGHTS, build_model, check_size, read_weights, write_tensors
from vesalius.models.config import ModelConfig
from vesalius.models.families import family_of, read_config, write_config
from vesalius.tokenizers.sentencepiece_file import open_tokenizer
from vesalius.tokenizers.tokenizer import Tokenizer

SEQUENCES, TOKENS = "ForSequenceClassification", "ForTokenClassification"
ENDINGS = {REWARD: SEQUENCES, STEPS: TOKENS}
LABELS = {REWARD: ("reward",), STEPS: ("wrong", "right")}
OWN_KEYS = ("id2label", "label2id", "num_labels", "problem_type", "classifier_dropout")
"""What config.json says of the head; the rest is the decoder's."""


def save_scoring_model(directory: Path | str, model: ScoringModel, tokenizer: Tokenizer) -> None:
    """Writes the whole directory or nothing; what stood there before is replaced. Adapters are merged into what is
    written. UserError for one that is no change of the weights.
    """
    published = write_config(model.config)
    ending, names = ENDINGS[model.labels], LABELS[model.labels]
    writer = str((published.get("architectures") or ["VesaliusForCausalLM"])[0])
    family = writer.removesuffix("ForCausalLM").removesuffix("LMHeadModel").removesuffix("ForConditionalGeneration")
    head: dict[str, Any] = {
        "architectures": [family + ending],
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "classifier_dropout": 0.0,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": list(tokenizer.eos_ids),
        "pad_token_id": padding_id(tokenizer),
        "dtype": str(model.score.weight.dtype).removeprefix("torch."),
    }
    with atomic_path(directory) as scratch:
        scratch.mkdir()
        write_json(scratch / CONFIG, published | head)
        weights = {name: weight.values() for name, weight in module_weights(model).items()}
        write_tensors(scratch / WEIGHTS, weights, model.config, family_of(published).weights)
        tokenizer.save(scratch)


def open_scoring_model(directory: Path | str, *, dtype: torch.dtype = torch.float32) -> tuple[ScoringModel, Tokenizer]:
    """The model, in evaluation mode, and its tokenizer, from a Hugging Face directory or a run's. UserError that says
    what is wrong with it.
    """
    directory, published, architecture = scoring_facts(directory)
    config = read_config({name: value for name, value in published.items() if name not in OWN_KEYS})
    names, stored = family_of(published).weights, read_weights(directory)
    head = {name: stored.pop(f"score.{name}") for name in ("weight", "bias") if f"score.{name}" in stored}
    labels = _labels_of(head, config, architecture, directory)
    headless = replace(config, tie_word_embeddings=True)  # whatever it was: no output head is stored
    check_size(headless, stored, where=str(directory))
    decoder = build_model(headless, stored, dtype, where=str(directory), names=names).model
    model = ScoringModel(decoder, config, labels).eval()
    model.score.load_state_dict({name: tensor.to(dtype) for name, tensor in head.items()})
    return model, open_tokenizer(directory)


def scoring_facts(directory: Path | str) -> tuple[Path, dict[str, Any], str]:
    """Where the config.json of a scoring model is, what it says, and of which architecture it is. UserError where there
    is none, or of a model that scores nothing.
    """
    directory = find_model(directory)
    published = read_object(directory / CONFIG)
    architecture = str((published.get("architectures") or [None])[0])
    if not architecture.endswith(tuple(ENDINGS.values())):
        raise UserError(
            f"{directory} is a {architecture}, which scores nothing: give a model that `vesalius run reward` or "
            f"`vesalius run prm` made, or one of transformers' …{SEQUENCES}"
        )
    return directory, published, architecture


def padding_id(tokenizer: Tokenizer) -> int | None:
    """The first special token that ends nothing; None where there is none."""
    return next((token for token in tokenizer.special_tokens.values() if token not in tokenizer.eos_ids), None)


def _labels_of(head: dict[str, Tensor], config: ModelConfig, architecture: str, directory: Path) -> int:
    """How many numbers the head gives. UserError where that is not what its architecture says."""
    labels = next(labels for labels, ending in ENDINGS.items() if architecture.endswith(ending))
    expected = {"weight": (labels, config.hidden_size)} | ({"bias": (labels,)} if labels != REWARD else {})
    if (found := {name: tuple(tensor.shape) for name, tensor in head.items()}) != expected:
        raise UserError(
            f"{directory}: the head `score` of a {architecture} must have {expected}, got {found or 'none'}"
        )
    return labels
