"""The student's own answers: sampled with the weights of the moment, marked as its own, repeated exactly by a state."""

import json
from itertools import pairwise

import pytest
import torch
from align.talks import CONTEXT, encoded_talks, talk, talks
from align.tiny_models import model_for

from vesalius.align.distill.objective import Distill
from vesalius.align.distill.on_policy import OnPolicyConversations, OnPolicyPlan
from vesalius.align.policy.episodes import Dialogue, Sampler
from vesalius.align.sft.sft import PackedConversations
from vesalius.core.errors import UserError
from vesalius.data.batch import IGNORE, Batch
from vesalius.data.conversation import Conversation
from vesalius.infer.engine import Engine
from vesalius.infer.params import SamplingParams
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.chat import encode_chat
from vesalius.tokenizers.tokenizer import Tokenizer

MAX_TOKENS = 10


@pytest.fixture
def student(tokenizer: Tokenizer) -> Transformer:
    return model_for(tokenizer).train()


def source(
    student: Transformer, tokenizer: Tokenizer, *, share: float = 1.0, seed: int = 0, conversations=None, **dialogue
) -> OnPolicyConversations:
    data = PackedConversations(encoded_talks(tokenizer), batch_rows=2, context=CONTEXT, seed=0)
    sampler = Sampler(student, tokenizer, Dialogue(**{"max_tokens": MAX_TOKENS, "context": CONTEXT} | dialogue))
    conversations = talks(30) if conversations is None else conversations
    return OnPolicyConversations(data, conversations, sampler, OnPolicyPlan(share=share, prompts=6, seed=seed))


def parts(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """Tokens and targets of everything between two starts of positions, without padding."""
    assert batch.positions is not None
    found = []
    for tokens, targets, positions in zip(batch.tokens, batch.targets, batch.positions, strict=True):
        starts = [*(positions == 0).nonzero().flatten().tolist(), len(tokens)]
        found += [(tokens[a:b].tolist(), targets[a:b].tolist()) for a, b in pairwise(starts)]
    return [(tokens, targets) for tokens, targets in found if any(target != IGNORE for target in targets)]


def test_what_is_learned_is_what_the_student_wrote_and_no_more(student: Transformer, tokenizer: Tokenizer) -> None:
    prompts = {tuple(encode_chat(tokenizer, t.messages[:-1], add_generation_prompt=True).ids) for t in talks(30)}
    found = parts(next(source(student, tokenizer)))
    assert len(found) == 6
    for tokens, targets in found:
        start = next(place for place, target in enumerate(targets) if target != IGNORE)
        assert tuple(tokens[: start + 1]) in prompts
        answer = tokens[start + 1 :]
        assert targets[start:-1] == answer
        assert targets[-1] == IGNORE
        assert len(answer) == MAX_TOKENS or answer[-1] in tokenizer.eos_ids


def test_answers_are_likely_to_whoever_wrote_them(student: Transformer, tokenizer: Tokenizer) -> None:
    """Greedy answers are the student's own likeliest tokens at every position, read again by the trainer."""
    batch = next(source(student, tokenizer, temperature=0.0))
    with torch.no_grad():
        likeliest = student(batch.tokens, batch.positions).argmax(-1)
    wanted = batch.targets != IGNORE
    assert torch.equal(likeliest[wanted], batch.targets[wanted])


def test_an_update_is_seen_by_the_next_sampling(student: Transformer, tokenizer: Tokenizer) -> None:
    """The engine has the prompts of an epoch in its cache, computed by weights that are no longer."""
    batches = source(student, tokenizer, temperature=0.0, conversations=talks(6))
    first = next(batches)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "k_proj" in name or "v_proj" in name:
                parameter.neg_()
    second = next(batches)
    assert sorted(parts(first)) != sorted(parts(second))
    with torch.no_grad():
        likeliest = student(second.tokens, second.positions).argmax(-1)
    wanted = second.targets != IGNORE
    assert torch.equal(likeliest[wanted], second.targets[wanted])


def test_it_is_the_one_engine_s_answer(student: Transformer, tokenizer: Tokenizer) -> None:
    batch = next(source(student, tokenizer, temperature=0.0))
    engine = Engine(student.eval(), tokenizer.eos_ids)
    for tokens, targets in parts(batch):
        start = next(place for place, target in enumerate(targets) if target != IGNORE)
        [sequence] = engine.add(tokens[: start + 1], SamplingParams(max_tokens=MAX_TOKENS, temperature=0.0))
        engine.run(sequence)
        assert tokens[start + 1 :] == sequence.ids


def test_the_student_goes_on_in_training_mode(student: Transformer, tokenizer: Tokenizer) -> None:
    next(source(student, tokenizer))
    assert student.training


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.3, 3, 17), (1.0, 30, 30)])
def test_about_a_share_of_the_batches_is_the_student_s(
    share: float, least: int, most: int, student: Transformer, tokenizer: Tokenizer
) -> None:
    batches = source(student, tokenizer, share=share, max_tokens=1)
    own = sum(next(batches).source.startswith("written at step") for _ in range(30))
    assert least <= own <= most


@pytest.mark.parametrize("before", [0, 1, 5])
def test_a_state_through_json_goes_on_exactly(before: int, student: Transformer, tokenizer: Tokenizer) -> None:
    batches, resumed = (source(student, tokenizer, share=0.5) for _ in range(2))
    for _ in range(before):
        next(batches)
    resumed.load_state_dict(json.loads(json.dumps(batches.state_dict())))
    for _ in range(6):
        one, other = next(batches), next(resumed)
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.targets, other.targets)


def test_a_state_of_other_settings_is_refused(student: Transformer, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="resume with the same files"):
        source(student, tokenizer, seed=1).load_state_dict(source(student, tokenizer).state_dict())


def test_prompts_without_room_are_named_and_all_of_them_an_error(student: Transformer, tokenizer: Tokenizer) -> None:
    long = Conversation(
        [{"role": "user", "content": "why " * CONTEXT}, {"role": "assistant", "content": "So."}], "talks:99", "99"
    )
    assert source(student, tokenizer, conversations=[long, talk(1)]).dropped == ["talks:99"]
    with pytest.raises(UserError, match="none of 1 conversations leaves room to answer in a context of 96"):
        source(student, tokenizer, conversations=[long])


def test_a_teacher_reads_what_the_student_wrote(student: Transformer, tokenizer: Tokenizer) -> None:
    teacher = model_for(tokenizer, seed=1).eval().requires_grad_(False)
    loss, _ = Distill(teacher)(student, next(source(student, tokenizer)))
    loss.backward()
    assert loss > 0
    assert all(parameter.grad is not None for parameter in student.parameters())
