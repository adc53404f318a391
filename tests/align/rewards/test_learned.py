"""A reward model among the rewards: σ of what it scores by its own tokenizer, and one line where it is none."""

from pathlib import Path

import pytest
import torch
from align.tiny_models import make_tokenizer, model_for

from vesalius.align.rewards.compose import build_reward, judge_many
from vesalius.align.rewards.learned import LearnedReward, open_reward
from vesalius.align.scoring.files import save_scoring_model
from vesalius.align.scoring.model import STEPS, ScoringModel
from vesalius.align.scoring.reward import score
from vesalius.core.errors import UserError
from vesalius.data.task import Task
from vesalius.hub.directory import save_model
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.chat import encode_chat
from vesalius.tokenizers.tokenizer import Tokenizer

TASKS = [
    Task(messages=[{"role": "user", "content": text}], kind="exact", name=text, split_key=text, answer="3")
    for text in ("1 + 2?", "What is the sum of one and two?", "Say 3.")
]
ANSWERS = ["3", "It is the sum of the two, which is three.", ""]


@pytest.fixture(scope="module", params=["the policy's tokenizer", "another one"])
def learned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LearnedReward:
    own = request.param.startswith("the")
    tokenizer = make_tokenizer() if own else Tokenizer.from_bpe(train_bpe(["It is the sum of one and two. " * 3], 272))
    directory = tmp_path_factory.mktemp("reward") / "model"
    save_scoring_model(directory, ScoringModel.on(model_for(tokenizer, max_position_embeddings=128)), tokenizer)
    return open_reward(directory, "cpu")


def expected(learned: LearnedReward) -> list[float]:
    chats = [
        encode_chat(learned.tokenizer, [*task.messages, {"role": "assistant", "content": answer}])
        for task, answer in zip(TASKS, ANSWERS, strict=True)
    ]
    read = [chat.ids[: len(chat.ids) - chat.assistant_mask[::-1].index(True)] for chat in chats]
    return [float(torch.sigmoid(score(learned.model, [ids]))) for ids in read]


def test_a_verdict_is_the_sigmoid_of_the_score_at_the_last_token_that_was_said(learned):
    found = learned.many(TASKS, ANSWERS)
    assert [float(verdict) for verdict in found] == pytest.approx(expected(learned), rel=1e-5)
    assert len({float(verdict) for verdict in found}) == 3
    assert found[0].reason.startswith("the reward model says ")


def test_one_at_a_time_is_the_same(learned):
    together = [float(verdict) for verdict in judge_many(learned, TASKS, ANSWERS)]
    alone = [float(learned(task, answer)) for task, answer in zip(TASKS, ANSWERS, strict=True)]
    assert alone == pytest.approx(together, rel=1e-5)


def test_it_is_mixed_with_others_by_weight(learned):
    reward = build_reward({"verified": 1.0, "model": 3.0}, learned=learned)
    verdicts = judge_many(reward, TASKS, ANSWERS)
    for verdict, right, own in zip(verdicts, (1, 0, 0), expected(learned), strict=True):
        assert verdict.parts == {"verified": right, "model": pytest.approx(own, rel=1e-5)}
        assert verdict.value == pytest.approx((right + 3 * own) / 4, rel=1e-5)


def test_an_answer_that_it_cannot_read_to_its_end_is_worth_nothing(learned):
    long, short = learned.many(TASKS[:2], ["sum " * 200, "3"])
    assert (long.value, long.reason) == (0.0, "longer than the 128 tokens that it reads")
    assert float(short) > 0


def test_without_a_model_its_name_is_unknown():
    with pytest.raises(UserError, match="unknown reward 'model'"):
        build_reward({"model": 1.0})


def test_what_rewards_no_answer_is_one_line(tmp_path: Path):
    tokenizer = make_tokenizer()
    save_model(tmp_path / "writer", model_for(tokenizer), tokenizer)
    save_scoring_model(tmp_path / "prm", ScoringModel.on(model_for(tokenizer), STEPS), tokenizer)
    with pytest.raises(UserError, match="is a LlamaForCausalLM, which scores nothing"):
        open_reward(tmp_path / "writer", "cpu")
    with pytest.raises(UserError, match="judges the steps of an answer: give a model that rewards whole ones"):
        open_reward(tmp_path / "prm", "cpu")
    with pytest.raises(UserError, match="no model at"):
        open_reward(tmp_path / "nothing", "cpu")
