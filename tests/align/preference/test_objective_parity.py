"""Losses, gradients and metrics equal TRL's on the same tiny weights and the same pairs, to 1e-5 in float32.

TRL's trainers are built once, for their models and their plumbing; a loss is then asked of them by its name.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from align.words import word_tokenizer
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from vesalius.align.preference.kto import KTO
from vesalius.align.preference.losses import LOSSES, LossNumbers
from vesalius.align.preference.objective import Preference
from vesalius.align.preference.ratings import RatingBatch
from vesalius.align.reference import FrozenCopy
from vesalius.align.rows.answer_rows import Item, Layout, lay_out
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer

V = 40
SIZES = {
    "vocab_size": V, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
CLOSE = {"atol": 1e-5, "rtol": 1e-5}

generator = np.random.default_rng(0)
PROMPTS, CHOSEN, REJECTED = (
    [generator.integers(3, V, size) for size in sizes] for sizes in ((6, 3, 9, 4), (5, 2, 7, 4), (3, 8, 5, 4))
)


def hugging_face(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, rms_norm_eps=1e-5, attn_implementation="eager"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5) if parameter.dim() > 1 else None  # far from uniform, so that a mistake shows
    return model.eval()


def ours(theirs: LlamaForCausalLM) -> Transformer:
    model = Transformer(ModelConfig(**SIZES))
    model.load_state_dict(theirs.state_dict())
    return model.eval()


@pytest.fixture(scope="module")
def policy() -> LlamaForCausalLM:
    return hugging_face(0)


@pytest.fixture(scope="module")
def frozen() -> LlamaForCausalLM:
    return hugging_face(1)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer(V)


PLUMBING = {
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "per_device_train_batch_size": 4,
    "remove_unused_columns": False,
}
ROWS = [{"prompt": "w3 w4", "chosen": "w5", "rejected": "w6"}] * 4


@pytest.fixture(scope="module")
def dpo(policy, frozen, tokenizer, tmp_path_factory) -> DPOTrainer:
    config = DPOConfig(output_dir=str(tmp_path_factory.mktemp("dpo")), **PLUMBING)
    return DPOTrainer(policy, frozen, config, train_dataset=Dataset.from_list(ROWS), processing_class=tokenizer)


def padded(sequences: list[np.ndarray], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(s) for s in sequences], True, value)


def sequences(prompts, answers, prefix: str = "") -> dict[str, torch.Tensor]:
    """What TRL's collators make of prompts and answers."""
    whole = [np.concatenate(both) for both in zip(prompts, answers, strict=True)]
    said = [np.repeat([0, 1], [len(p), len(a)]) for p, a in zip(prompts, answers, strict=True)]
    return {
        f"{prefix}input_ids": padded(whole, 0),
        f"{prefix}attention_mask": padded([np.ones_like(s) for s in whole], 0),
        f"{prefix}completion_mask": padded(said, 0),
    }


def marked(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return ids, np.ones(len(ids), bool)


def batch(shared: bool, prompts=PROMPTS):
    """The same pairs in rows of ours."""
    items = [Item(p, (marked(c), marked(r))) for p, c, r in zip(prompts, CHOSEN, REJECTED, strict=True)]
    return lay_out([items[:3], items[3:]], Layout(rows=2, context=64, shared=shared), padding=0, source="")


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_equal_losses(model, loss, their_model, their_loss) -> None:
    torch.testing.assert_close(loss, their_loss, **CLOSE)
    mine, theirs = gradients(model, loss), gradients(their_model, their_loss)
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    assert largest > 1e-3
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name] / largest, gradient / largest, **CLOSE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("beta", "shared"), [(0.1, False), (0.7, False), (0.1, True)])
@pytest.mark.parametrize(
    ("loss", "smoothing"),
    [(name, 0.0) for name, row in LOSSES.items() if row.reference and row.smoothing != "needed"]
    + [("robust", 0.2), ("aot", 0.1), ("aot_unpaired", 0.1), ("exo_pair", 0.01)],
)
def test_losses_with_a_reference(loss, smoothing, beta, shared, dpo, policy, frozen) -> None:
    dpo.loss_types, dpo.loss_weights, dpo.beta, dpo.label_smoothing = [loss], [1.0], beta, smoothing
    pairs = sequences(PROMPTS * 2, CHOSEN + REJECTED)
    theirs = dpo._compute_loss(policy, pairs, return_outputs=False)
    model = ours(policy)
    numbers = LossNumbers(beta=beta, label_smoothing=smoothing)
    objective = Preference(loss=loss, numbers=numbers, reference=FrozenCopy(ours(frozen)))
    mine, metrics = objective(model, batch(shared))
    assert_equal_losses(model, mine, policy, theirs)
    told = {name: values[-1] for name, values in dpo._metrics["eval"].items()}
    for name, theirs_name in {
        "reward_chosen": "rewards/chosen", "reward_rejected": "rewards/rejected", "margin": "rewards/margins",
        "accuracy": "rewards/accuracies", "logp_chosen": "logps/chosen", "logp_rejected": "logps/rejected",
    }.items():  # fmt: skip
        assert float(metrics[name]) == pytest.approx(told[theirs_name], abs=1e-4, rel=1e-5)


@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired"])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.3, 0.6)])
def test_kto(loss, weights, policy, frozen, tokenizer, tmp_path: Path) -> None:
    policy, frozen = frozen, policy  # this way round the estimate of the KL is above 0, where it would be cut
    config = KTOConfig(output_dir=str(tmp_path), loss_type=loss, desirable_weight=weights[0],
                       undesirable_weight=weights[1], **PLUMBING)  # fmt: skip
    rows = [{"prompt": "w3 w4", "completion": "w5", "label": bool(i % 2)} for i in range(4)]
    trainer = KTOTrainer(policy, frozen, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    labels = torch.tensor([True, False, False, True])
    exchanged = [CHOSEN[-1], *CHOSEN[:-1]]
    theirs = trainer._compute_loss(
        policy,
        {
            **sequences(PROMPTS, CHOSEN),
            **(sequences(PROMPTS, exchanged, "KL_") if loss == "kto" else {}),
            "label": labels,
        },
        return_outputs=False,
    )
    layout = Layout(rows=1, context=64, shared=True)
    answers, others = (
        lay_out([[Item(p, (marked(a),)) for p, a in zip(PROMPTS, given, strict=True)]], layout, padding=0, source="")
        for given in (CHOSEN, exchanged)
    )
    model = ours(policy)
    objective = KTO(
        reference=FrozenCopy(ours(frozen)), loss=loss, desirable_weight=weights[0], undesirable_weight=weights[1]
    )
    mine, metrics = objective(model, RatingBatch(answers=answers, desirable=labels, exchanged=others))
    assert_equal_losses(model, mine, policy, theirs)
    told = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    for name, theirs_name in {
        "kl": "kl", "reward_chosen": "rewards/chosen", "reward_rejected": "rewards/rejected",
    }.items():  # fmt: skip
        assert float(metrics[name]) == pytest.approx(told[theirs_name], abs=1e-4, rel=1e-5)
    assert (float(metrics["kl"]) > 0) == (loss == "kto")


def labelled(prompts, answers, prefix: str) -> dict[str, torch.Tensor]:
    found = sequences(prompts, answers)
    labels = found["input_ids"].masked_fill(found["completion_mask"] == 0, -100)
    return {
        f"{prefix}_input_ids": found["input_ids"],
        f"{prefix}_attention_mask": found["attention_mask"],
        f"{prefix}_labels": labels,
    }


@pytest.fixture(scope="module")
def cpo(policy, tokenizer, tmp_path_factory) -> CPOTrainer:
    config = CPOConfig(output_dir=str(tmp_path_factory.mktemp("cpo")), **PLUMBING)
    return CPOTrainer(policy, config, train_dataset=Dataset.from_list(ROWS), processing_class=tokenizer)


@pytest.mark.parametrize(
    ("loss", "their_name", "sft_weight", "smoothing"),
    [
        ("cpo", "sigmoid", 1.0, 0.0),
        ("cpo", "sigmoid", 0.3, 0.1),
        ("slic", "hinge", 1.0, 0.0),
        ("simpo", "simpo", 0.0, 0.0),
        ("simpo", "simpo", 0.4, 0.1),
    ],
)
def test_losses_without_a_reference(loss, their_name, sft_weight, smoothing, cpo, policy) -> None:
    cpo.loss_type, cpo.beta, cpo.simpo_gamma, cpo.label_smoothing, cpo.cpo_alpha = (
        their_name,
        0.6,
        0.3,
        smoothing,
        sft_weight,
    )
    theirs, told = cpo.get_batch_loss_metrics(
        policy, labelled(PROMPTS, CHOSEN, "chosen") | labelled(PROMPTS, REJECTED, "rejected")
    )
    model = ours(policy)
    numbers = LossNumbers(beta=0.6, gamma=0.3, label_smoothing=smoothing)
    mine, metrics = Preference(loss=loss, numbers=numbers, sft_weight=sft_weight)(model, batch(shared=True))
    assert_equal_losses(model, mine, policy, theirs)
    if sft_weight:
        assert float(metrics["nll"]) == pytest.approx(told["nll_loss"], abs=1e-5)


def test_orpo(policy, tokenizer, tmp_path: Path) -> None:
    """TRL also trains ORPO on the prompt, which no method does here; prompts of one token have nothing to train."""
    config = ORPOConfig(output_dir=str(tmp_path), beta=0.3, **PLUMBING)
    trainer = ORPOTrainer(policy, config, train_dataset=Dataset.from_list(ROWS), processing_class=tokenizer)
    prompts = [prompt[:1] for prompt in PROMPTS]
    theirs, _ = trainer.get_batch_loss_metrics(
        policy, labelled(prompts, CHOSEN, "chosen") | labelled(prompts, REJECTED, "rejected")
    )
    model = ours(policy)
    mine, _ = Preference(loss="orpo", numbers=LossNumbers(beta=0.3))(model, batch(shared=False, prompts=prompts))
    assert_equal_losses(model, mine, policy, theirs)
