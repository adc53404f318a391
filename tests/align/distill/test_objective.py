"""What the parity with TRL does not say: masks, weights, metrics, replaced heads, short numbers, and that it learns."""

import math

import pytest
import torch
from align.talks import CONTEXT, encoded_talks
from align.tiny_models import model_for
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.adapt.lora import LoraConfig, add_lora
from vesalius.align.distill.objective import Distill, DistillNumbers
from vesalius.align.rows.encoding import encode_conversations
from vesalius.align.sft.neftune import Noisy
from vesalius.align.sft.sft import PackedConversations, batch_of
from vesalius.core.errors import UserError
from vesalius.data.batch import IGNORE, Batch
from vesalius.data.conversation import Conversation
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.tokenizer import Tokenizer
from vesalius.train.config import TrainConfig
from vesalius.train.loop import fit
from vesalius.train.objectives import NextToken
from vesalius.train.optim.build import build_optimizer
from vesalius.train.schedules import build_schedule
from vesalius.train.training import Callback


@pytest.fixture(scope="module")
def teacher(tokenizer: Tokenizer) -> Transformer:
    return model_for(tokenizer, seed=1).eval().requires_grad_(False)


@pytest.fixture
def student(tokenizer: Tokenizer) -> Transformer:
    return model_for(tokenizer)


texts = st.text(min_size=1, max_size=8).map(lambda text: text + "x")


@given(turns=st.lists(st.tuples(texts, texts), min_size=1, max_size=3), system=st.booleans())
@settings(max_examples=30, deadline=None)
def test_only_what_predicts_the_assistant_s_tokens_has_a_gradient(turns, system: bool, tokenizer, teacher) -> None:
    """Gradients of the logits: 0 at prompts and padding, not 0 before every token that the assistant says, ends of turn
    among them."""
    messages = [{"role": "system", "content": "Be brief."}] if system else []
    for asked, said in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    encoded = encode_conversations([Conversation(messages, "talk", "0")], tokenizer, 200)
    batch = batch_of(encoded, [[0]], 200)
    hidden = model_for(tokenizer).model(batch.tokens, batch.positions).detach().requires_grad_()
    objective = Distill(teacher)
    objective.of_hidden(model_for(tokenizer), hidden, objective.read(batch), batch)[0].backward()
    assert hidden.grad is not None
    moved = hidden.grad.abs().sum(-1) > 0
    ids, said = encoded.spans[0]
    expected = torch.zeros_like(moved)
    expected[0, : len(ids) - 1] = torch.from_numpy(said[1:].copy())
    assert torch.equal(moved, expected)
    ends = batch.targets == tokenizer.special_tokens["<|im_end|>"]
    assert int(ends.sum()) == len(turns)


def test_the_data_s_own_tokens_count_by_their_weight(student: Transformer, teacher: Transformer, batch: Batch) -> None:
    plain, _ = Distill(teacher)(student, batch)
    own, _ = NextToken()(student, batch)
    both, metrics = Distill(teacher, DistillNumbers(sft_weight=0.5))(student, batch)
    assert both.item() == pytest.approx(plain.item() + 0.5 * own.item(), rel=1e-6)
    assert metrics["divergence"].item() == pytest.approx(plain.item(), rel=1e-6)


def test_agreement_is_how_often_both_hold_the_same_to_be_likeliest(
    student: Transformer, teacher: Transformer, batch: Batch
) -> None:
    with torch.no_grad():
        ours, theirs = (model(batch.tokens, batch.positions).argmax(-1) for model in (student, teacher))
    expected = (ours == theirs)[batch.targets != IGNORE].float().mean().item()
    assert Distill(teacher)(student, batch)[1]["agreement"].item() == pytest.approx(expected)
    assert Distill(teacher)(teacher, batch)[1]["agreement"].item() == 1


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(
    divergence: str, teacher: Transformer, tokenizer: Tokenizer, batch: Batch
) -> None:
    same = model_for(tokenizer, seed=1)
    loss, _ = Distill(teacher, DistillNumbers(divergence=divergence))(same, batch)
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert max(parameter.grad.abs().max().item() for parameter in same.parameters()) < 1e-5  # sums of rounding


def test_an_adapter_around_the_head_learns_the_same_divergence(
    student: Transformer, teacher: Transformer, batch: Batch
) -> None:
    plain, _ = Distill(teacher)(student, batch)
    add_lora(student, LoraConfig(target_modules=("lm_head", "q_proj")))
    adapted, _ = Distill(teacher)(student, batch)
    adapted.backward()
    assert adapted.item() == pytest.approx(plain.item(), rel=1e-6)
    assert sum(p.grad.abs().sum() for name, p in student.named_parameters() if "lm_head" in name and p.grad is not None)


class Losses(Callback):
    def __init__(self) -> None:
        self.found: list[float] = []
        self.faults: list[str] = []

    def on_step(self, run, record) -> None:
        self.found += [record["loss"], record["grad_norm"]]

    def on_event(self, run, record) -> None:
        self.faults += [record["reason"]] if record["kind"] == "guard" else []


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("method", ["sft", "neftune", "forward_kl", "reverse_kl", "jsd"])
def test_short_numbers_stay_finite(
    precision: str, method: str, student: Transformer, teacher: Transformer, tokenizer: Tokenizer
) -> None:
    """Ten steps at a rate that moves the model far, and none that the guard objects to."""
    objectives = {"sft": NextToken(), "neftune": Noisy(NextToken(), 15.0)}
    objective = objectives.get(method) or Distill(teacher, DistillNumbers(divergence=method, temperature=0.5))
    config = TrainConfig(
        steps=10, learning_rate=1e-2, precision=precision, compile="off", batch_tokens=2 * CONTEXT, context=CONTEXT
    )
    batches = PackedConversations(encoded_talks(tokenizer), batch_rows=2, context=CONTEXT, seed=0)
    seen = Losses()
    result = fit(
        student, batches, objective, build_optimizer(student, config), build_schedule(config), [seen], config=config
    )
    assert result.step == 10
    assert all(map(math.isfinite, seen.found))
    assert seen.faults == []
    assert all(parameter.isfinite().all() for parameter in student.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"divergence": "forward-kl"}, "did you mean 'forward_kl'"),
        ({"divergence": "jsd", "beta": 1.0}, "beta = 1: of 0 and 1 the JSD is 0"),
    ],
)
def test_what_would_teach_nothing_is_refused(settings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DistillNumbers(**settings)
