"""What was stored of a teacher teaches as the teacher does, of merged outcomes; and batches stay what they are."""

from pathlib import Path

import pytest
import torch
from align.talks import CONTEXT, encoded_talks
from align.tiny_models import model_for
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.align.distill.divergences import divergences
from vesalius.align.distill.objective import Distill, DistillNumbers
from vesalius.align.distill.teacher_table import TableFacts, TeacherTable, write_table
from vesalius.align.distill.top_k import DistillTopK, TaughtConversations, with_rest
from vesalius.align.rows.encoding import Encoded
from vesalius.align.sft.sft import PackedConversations
from vesalius.data.batch import IGNORE
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.tokenizer import Tokenizer

TEMPERATURE = 1.5
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def encoded(tokenizer: Tokenizer) -> Encoded:
    return encoded_talks(tokenizer)


@pytest.fixture(scope="module")
def teacher(tokenizer: Tokenizer) -> Transformer:
    return model_for(tokenizer, seed=1).eval().requires_grad_(False)


def source(
    folder: Path, teacher: Transformer, encoded: Encoded, tokenizer: Tokenizer, top_k: int
) -> TaughtConversations:
    vocab_size = tokenizer.vocab_size
    facts = TableFacts.of(encoded, tokenizer="t", vocab_size=vocab_size, top_k=top_k, temperature=TEMPERATURE)
    write_table(teacher, encoded, facts, folder, rows=3, context=CONTEXT, dtype=None, on_progress=lambda _: None)
    packed = PackedConversations(encoded, batch_rows=3, context=CONTEXT, seed=0)
    return TaughtConversations(packed, TeacherTable(folder, encoded, facts))


def gradients(model: Transformer, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("divergence", divergences(0.5))
def test_all_tokens_but_one_teach_what_the_teacher_does(
    divergence: str, tmp_path: Path, teacher: Transformer, encoded: Encoded, tokenizer: Tokenizer
) -> None:
    """ "Any other" is then a token too, so both losses are the same formula; to 1e-5, as stored in float32."""
    numbers = DistillNumbers(divergence=divergence, temperature=TEMPERATURE, sft_weight=0.3)
    batch = next(source(tmp_path, teacher, encoded, tokenizer, tokenizer.vocab_size - 1))
    student = model_for(tokenizer)
    stored, their = DistillTopK(numbers)(student, batch), Distill(teacher, numbers)(student, batch)
    torch.testing.assert_close(stored, their, **CLOSE)
    wanted = gradients(student, their[0])
    for name, gradient in gradients(student, stored[0]).items():
        torch.testing.assert_close(gradient, wanted[name], **CLOSE)


@pytest.mark.parametrize("divergence", divergences(0.5))
def test_fewer_tokens_are_the_divergence_of_merged_outcomes(
    divergence: str, tmp_path: Path, teacher: Transformer, encoded: Encoded, tokenizer: Tokenizer
) -> None:
    batch = next(source(tmp_path, teacher, encoded, tokenizer, 5))
    student, numbers = model_for(tokenizer), DistillNumbers(divergence=divergence, temperature=TEMPERATURE)
    with torch.no_grad():
        q, p = (
            (model(batch.tokens, batch.positions)[batch.targets != IGNORE].double() / TEMPERATURE).softmax(-1)
            for model in (student, teacher)
        )
    top = p.topk(5).indices
    merged = [torch.cat((one.gather(1, top), 1 - one.gather(1, top).sum(1, keepdim=True)), 1).log() for one in (q, p)]
    expected = divergences(0.5)[divergence](*merged).mean()
    found = DistillTopK(numbers)(student, batch)[0]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found < Distill(teacher, numbers)(student, batch)[0]


@given(logits=st.lists(st.floats(-8, 8), min_size=6, max_size=6), k=st.integers(1, 5))
@settings(deadline=None)
def test_the_outcomes_are_a_distribution(logits: list[float], k: int) -> None:
    log_q = torch.tensor([logits], dtype=torch.float64).log_softmax(-1)
    outcomes = with_rest(log_q, log_q.topk(k).indices)
    assert outcomes.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_every_batch_has_the_teacher_s_words_where_they_belong(
    tmp_path: Path, teacher: Transformer, encoded: Encoded, tokenizer: Tokenizer
) -> None:
    """Over two epochs, in whatever order and rows."""
    batches = source(tmp_path, teacher, encoded, tokenizer, 3)
    for _ in range(12):
        batch = next(batches)
        with torch.no_grad():
            log_p = (teacher(batch.tokens, batch.positions) / TEMPERATURE).log_softmax(-1)
        wanted = batch.targets != IGNORE
        values, ids = log_p.topk(3)
        assert torch.equal(batch.top_ids[wanted], ids[wanted])
        torch.testing.assert_close(batch.top_logprobs[wanted][:, :3], values[wanted], **CLOSE)
        assert not batch.top_ids[~wanted].any()


def test_parts_and_moves_keep_everything(
    tmp_path: Path, teacher: Transformer, encoded: Encoded, tokenizer: Tokenizer
) -> None:
    batch = next(source(tmp_path, teacher, encoded, tokenizer, 3))
    parts = [part.to("cpu") for part in batch.split(2)]
    assert [len(part.tokens) for part in parts] == [2, 1]
    assert sum(part.weight for part in parts) == batch.weight
    for name in ("tokens", "targets", "positions", "top_ids", "top_logprobs"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    assert parts[0].source == batch.source


def test_a_state_goes_on_exactly(tmp_path: Path, teacher: Transformer, encoded: Encoded, tokenizer: Tokenizer) -> None:
    batches, resumed = (source(tmp_path, teacher, encoded, tokenizer, 3) for _ in range(2))
    for _ in range(3):
        next(batches)
    resumed.load_state_dict(batches.state_dict())
    one, other = next(batches), next(resumed)
    assert torch.equal(one.tokens, other.tokens)
    assert torch.equal(one.top_logprobs, other.top_logprobs)
