"""The reference model's log-probabilities: a frozen copy, the model without its adapter, and a file of them all."""

from pathlib import Path

import pytest
import torch
from align.preferences import LAYOUT, pairs
from align.tiny_models import model_for

from vesalius.adapt.lora import LoraConfig, add_lora
from vesalius.align import reference
from vesalius.align.preference.pairs import PackedPairs, encode_pairs
from vesalius.align.reference import AdaptersOff, FrozenCopy, precompute, reference_of
from vesalius.align.rows.answers import AnswerBatch, answer_logprobs
from vesalius.align.rows.items import Items, batch_of
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.tokenizer import Tokenizer


@pytest.fixture
def model(tokenizer: Tokenizer) -> Transformer:
    return model_for(tokenizer)


@pytest.fixture(scope="module")
def items(tokenizer: Tokenizer) -> Items:
    return encode_pairs(pairs(30), tokenizer, LAYOUT)


@torch.no_grad()
def logprobs(model: Transformer, batch: AnswerBatch) -> torch.Tensor:
    return answer_logprobs(model, batch).sums


def test_a_frozen_copy_stays_while_the_model_goes_on(model: Transformer, items: Items) -> None:
    batch = batch_of(items, [[0, 1], [2]], LAYOUT)
    before = logprobs(model, batch)
    frozen = reference_of(model)
    assert isinstance(frozen, FrozenCopy)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    assert torch.equal(frozen(model, batch), before)
    assert not torch.equal(logprobs(model, batch), before)


def test_an_adapted_model_is_its_own_reference(model: Transformer, items: Items) -> None:
    batch = batch_of(items, [[0, 1], [2]], LAYOUT)
    before = logprobs(model, batch)
    add_lora(model, LoraConfig(lora_r=2))
    model.train()
    off = reference_of(model)
    assert isinstance(off, AdaptersOff)
    learn(model)
    assert torch.equal(off(model, batch), before)
    assert model.training
    assert not torch.equal(logprobs(model, batch), before)


def learn(model: Transformer) -> None:
    """Something, in all that trains."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)


def test_an_adapter_that_has_learned_before_is_in_the_reference(model: Transformer, items: Items) -> None:
    batch = batch_of(items, [[0, 1], [2]], LAYOUT)
    add_lora(model, LoraConfig(lora_r=2))
    learn(model)
    before = logprobs(model, batch)
    reference = reference_of(model)
    learn(model)
    assert torch.equal(reference(model, batch), before)


def everything(model: Transformer, items: Items, path: Path, steps: list[int] | None = None) -> torch.Tensor:
    return precompute(model, items, path, LAYOUT, dtype=None, on_progress=(steps if steps is not None else []).append)


def test_the_file_has_what_the_model_gives_to_every_batch(model: Transformer, items: Items, tmp_path: Path) -> None:
    table = everything(model, items, tmp_path / "reference.safetensors")
    batches = PackedPairs(items, LAYOUT, seed=0, reference=table)
    for _ in range(5):
        batch = next(batches)
        torch.testing.assert_close(batch.reference, answer_logprobs(model, batch).sums, atol=1e-5, rtol=1e-5)


def test_a_second_run_reads_the_file(model: Transformer, items: Items, tmp_path: Path) -> None:
    first, steps = everything(model, items, tmp_path / "reference.safetensors"), []
    assert torch.equal(everything(model, items, tmp_path / "reference.safetensors", steps), first)
    assert steps == []


def test_a_killed_run_goes_on_where_it_was(
    model: Transformer, items: Items, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "AT_ONCE", 8)
    monkeypatch.setattr(reference, "SAVE_EVERY", 0.0)
    whole = everything(model, items, tmp_path / "whole.safetensors")

    class Killed(Exception):
        """What ends the first try."""

    def kill(done: int) -> None:
        if done == 16:
            raise Killed

    path = tmp_path / "reference.safetensors"
    with pytest.raises(Killed):
        precompute(model, items, path, LAYOUT, dtype=None, on_progress=kill)
    steps: list[int] = []
    assert torch.equal(everything(model, items, path, steps), whole)
    assert steps == [16, 24, 30]  # of the sixteen, eight were in the file


@pytest.mark.parametrize("change", ["weights", "pairs"])
def test_a_file_of_something_else_is_not_used(
    change: str, model: Transformer, items: Items, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path, steps = tmp_path / "reference.safetensors", []
    old = everything(model, items, path)
    if change == "weights":
        with torch.no_grad():
            model.lm_head.weight[0, 0] += 1
    else:
        items = encode_pairs(pairs(30)[::-1], tokenizer, LAYOUT)
    new = everything(model, items, path, steps)
    assert steps == [30]
    assert not torch.equal(new, old)
