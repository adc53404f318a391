"""Loss and gradients equal those of TRL's SFTTrainer on the same conversations, padded and packed, to 1e-5 in float32.

TRL's packed rows need flash attention, which a CPU has not: transformers' own attention keeps packed sequences apart
where it is given their positions and no mask, and that is what TRL's collator hands over.
"""

from pathlib import Path

import pytest
import torch
from align.talks import CONTEXT, talks
from align.tiny_models import make_tokenizer, model_for
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from vesalius.align.rows.encoding import encode_conversations
from vesalius.align.sft.sft import batch_of
from vesalius.hub.directory import save_model
from vesalius.train.objectives import NextToken

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
TALKS = talks(9)
ROWS = [[0, 3, 5], [1, 2, 6], [4, 7], [8]]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("model"), make_tokenizer()
    save_model(folder, model_for(tokenizer), tokenizer)
    return folder


@pytest.fixture(scope="module")
def trainer(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> SFTTrainer:
    config = SFTConfig(
        output_dir=str(tmp_path_factory.mktemp("sft")), report_to=[], use_cpu=True, bf16=False, max_length=CONTEXT,
        assistant_only_loss=True, dataset_num_proc=None,
    )  # fmt: skip
    return SFTTrainer(
        AutoModelForCausalLM.from_pretrained(stored, dtype=torch.float32, attn_implementation="sdpa"),
        args=config,
        train_dataset=Dataset.from_list([{"messages": talk.messages} for talk in TALKS]),
        processing_class=AutoTokenizer.from_pretrained(stored),
    )


def theirs(trainer: SFTTrainer, *, packed: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    examples = [trainer.train_dataset[number] for row in ROWS for number in row]
    batch = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=packed)(examples)
    trainer.model.train().zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss, {name: parameter.grad for name, parameter in trainer.model.named_parameters()}


def ours(*, packed: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    tokenizer = make_tokenizer()
    model, encoded = model_for(tokenizer), encode_conversations(TALKS, tokenizer, CONTEXT)
    rows = ROWS if packed else [[number] for row in ROWS for number in row]
    loss, _ = NextToken()(model, batch_of(encoded, rows, CONTEXT))
    loss.backward()
    return loss, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_loss_and_gradients_are_trl_s(packed: bool, trainer: SFTTrainer) -> None:
    loss, gradients = ours(packed=packed)
    their_loss, their_gradients = theirs(trainer, packed=packed)
    torch.testing.assert_close(loss, their_loss, **CLOSE)
    assert gradients.keys() == their_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, their_gradients[name], **CLOSE, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_trl_trains_the_same_tokens(trainer: SFTTrainer) -> None:
    encoded = encode_conversations(TALKS, make_tokenizer(), CONTEXT)
    for number, example in enumerate(trainer.train_dataset):
        ids, said = encoded.spans[number]
        assert example["input_ids"] == ids.tolist()
        assert [label != -100 for label in example["labels"]] == said.tolist()
