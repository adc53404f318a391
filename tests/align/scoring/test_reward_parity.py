"""Reward models equal TRL's RewardTrainer, and process reward models what its PRMTrainer trained, on the same batch.

TRL's PRMTrainer minimised the loss of a ForTokenClassification with a label at the last token of each step. TRL 1.16
has it no longer, so transformers' model itself is the oracle.
"""

from pathlib import Path

import pytest
import torch
import transformers
from datasets import Dataset
from torch import Tensor, nn
from trl import RewardConfig, RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from vesalius.align.rows.answer_rows import Layout
from vesalius.align.scoring.batch import ScoredBatch
from vesalius.align.scoring.files import padding_id, save_scoring_model
from vesalius.align.scoring.items import Item
from vesalius.align.scoring.model import REWARD, STEPS, ScoringModel
from vesalius.align.scoring.process_reward import StepLabels
from vesalius.align.scoring.reward import BradleyTerry, Regression
from vesalius.align.scoring.rows import collect, scored_batch
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_bpe(train_bpe(["What is the sum of the two? It is three. " * 3], 275))
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
LAYOUTS = [Layout(rows=2, context=64, shared=shared, ends=True) for shared in (True, False)]


def ours(labels: int) -> ScoringModel:
    sizes = {
        "vocab_size": TOKENIZER.vocab_size, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "initializer_range": 0.2,
    }  # fmt: skip
    return ScoringModel.on(Transformer(ModelConfig.from_dict(sizes), seed=1), labels, seed=2)


def pairs() -> list[tuple[list[int], list[int], list[int], float]]:
    """Prompts, chosen and rejected answers, margins."""
    generator = torch.Generator().manual_seed(0)

    def ids(most: int) -> list[int]:
        return torch.randint(
            5, 275, (int(torch.randint(1, most, (1,), generator=generator)),), generator=generator
        ).tolist()

    return [(ids(9), ids(9), ids(9), margin) for margin in (0.0, 0.5, 1.5, -0.25, 3.0)]


def batch_of(items: list[Item], answers: int, layout: Layout) -> ScoredBatch:
    collected = collect(items, TOKENIZER, layout, answers=answers)
    half = (len(items) + 1) // 2
    return scored_batch(collected, [list(range(half)), list(range(half, len(items)))], layout)


def assert_same_gradients(model: ScoringModel, loss: Tensor, theirs: nn.Module, their_loss: Tensor) -> None:
    mine, truth = dict(model.named_parameters()), dict(theirs.named_parameters())
    assert mine.keys() == truth.keys()
    gradients = zip(
        torch.autograd.grad(loss, mine.values()),
        torch.autograd.grad(their_loss, [truth[name] for name in mine]),
        strict=True,
    )
    for name, (gradient, expected) in zip(mine, gradients, strict=True):
        torch.testing.assert_close(gradient, expected, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("layout", LAYOUTS, ids=["shared", "apart"])
@pytest.mark.parametrize("centring", [0.0, 0.01])
@pytest.mark.parametrize("margins", [False, True])
def test_pairs_equal_trl(margins: bool, centring: float, layout: Layout, tmp_path: Path) -> None:
    model = ours(REWARD)
    save_scoring_model(tmp_path / "m", model, TOKENIZER)
    rows = [
        {"chosen_ids": p + a, "rejected_ids": p + b} | ({"margin": margin} if margins else {})
        for p, a, b, margin in pairs()
    ]
    trainer = RewardTrainer(
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "m"),
        RewardConfig(tmp_path / "out", center_rewards_coefficient=centring or None, use_cpu=True, report_to="none"),
        train_dataset=Dataset.from_list(rows),
        processing_class=transformers.AutoTokenizer.from_pretrained(tmp_path / "m"),
    )
    padding = padding_id(TOKENIZER)
    assert padding is not None
    trainer.model.config.pad_token_id = padding
    inputs = DataCollatorForPreference(padding)(rows)
    their_loss = trainer.compute_loss(trainer.model, inputs)
    items = [
        Item(f"{i}", p, ((a, {len(a) - 1: margin if margins else 0.0}), (b, {len(b) - 1: 0.0})))
        for i, (p, a, b, margin) in enumerate(pairs())
    ]
    loss, metrics = BradleyTerry(centring=centring)(model, batch_of(items, 2, layout))
    torch.testing.assert_close(loss, their_loss, **CLOSE)
    for name in ("accuracy", "margin"):
        assert float(metrics[name]) == pytest.approx(trainer._metrics["eval"][name][-1], abs=1e-5)
    assert float(metrics["reward"]) == pytest.approx(trainer._metrics["eval"]["mean_reward"][-1], abs=1e-5)
    assert_same_gradients(model, loss, trainer.model, their_loss)


def test_scores_equal_the_regression_of_transformers(tmp_path: Path) -> None:
    model = ours(REWARD)
    save_scoring_model(tmp_path / "m", model, TOKENIZER)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "m", problem_type="regression")
    answers = [(p, a, margin) for p, a, _, margin in pairs()]
    padding = padding_id(TOKENIZER)
    width = max(len(p) + len(a) for p, a, _ in answers)
    tokens = torch.tensor([p + a + [padding] * (width - len(p) - len(a)) for p, a, _ in answers])
    their_loss = theirs(tokens, labels=torch.tensor([score for *_, score in answers])).loss
    items = [Item(f"{i}", p, ((a, {len(a) - 1: score}),)) for i, (p, a, score) in enumerate(answers)]
    loss, _ = Regression()(model, batch_of(items, 1, LAYOUTS[1]))
    torch.testing.assert_close(loss, their_loss, **CLOSE)
    assert_same_gradients(model, loss, theirs, their_loss)


def test_steps_equal_token_classification(tmp_path: Path) -> None:
    model = ours(STEPS)
    nn.init.normal_(model.score.bias, generator=torch.Generator().manual_seed(3))
    save_scoring_model(tmp_path / "m", model, TOKENIZER)
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "m")
    answers = [(p, a + b, {len(a) - 1: 1.0, len(a) + len(b) - 1: 0.0}) for p, a, b, _ in pairs()]
    width = max(len(p) + len(a) for p, a, _ in answers)
    tokens, labels = torch.zeros(len(answers), width, dtype=torch.int64), torch.full((len(answers), width), -100)
    mask = torch.zeros_like(tokens)
    for row, (p, a, numbers) in enumerate(answers):
        tokens[row, : len(p + a)], mask[row, : len(p + a)] = torch.tensor(p + a), 1
        for place, number in numbers.items():
            labels[row, len(p) + place] = int(number)
    out = theirs(tokens, attention_mask=mask, labels=labels)
    items = [Item(f"{i}", p, ((a, numbers),)) for i, (p, a, numbers) in enumerate(answers)]
    loss, metrics = StepLabels()(model, batch_of(items, 1, LAYOUTS[0]))
    torch.testing.assert_close(loss, out.loss, **CLOSE)
    right = (out.logits.argmax(-1) == labels)[labels != -100].float().mean()
    torch.testing.assert_close(metrics["accuracy"], right)
    assert_same_gradients(model, loss, theirs, out.loss)
