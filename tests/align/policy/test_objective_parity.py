"""Losses, gradients and metrics equal TRL's GRPO and RLOO trainers on the same tiny weights and answers, to 1e-5 in
float32. The trainers are built once, for their models and their plumbing; a loss is then asked of them by its name.
"""

from dataclasses import replace

import pytest
import torch
from align.words import word_tokenizer
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from vesalius.align.policy.batch import PolicyBatch
from vesalius.align.policy.objective import VARIANTS, PolicyGradient
from vesalius.data.batch import IGNORE
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer

V = 40
SIZES = {
    "vocab_size": V, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
PROMPTS, ANSWERS = (4, 2, 5, 3), (3, 6, 1, 4)
"""Tokens of each."""
TOOL = {1: (2, 3)}
"""Places in an answer that a tool said."""


@pytest.fixture(scope="module")
def policy() -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, rms_norm_eps=1e-5, attn_implementation="eager"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3) if parameter.dim() > 1 else None  # far from uniform, so that a mistake shows
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer(V)


PLUMBING = {
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "per_device_train_batch_size": 4,
    "num_generations": 2,
    "temperature": 1.0,
    "max_completion_length": 8,
}
ROWS = Dataset.from_list([{"prompt": "w3 w4"}] * 4)


def no_reward(completions, **_):
    return [0.0] * len(completions)


@pytest.fixture(scope="module")
def grpo(policy, tokenizer, tmp_path_factory) -> GRPOTrainer:
    config = GRPOConfig(output_dir=str(tmp_path_factory.mktemp("grpo")), beta=0.0, **PLUMBING)
    return GRPOTrainer(policy, no_reward, config, train_dataset=ROWS, processing_class=tokenizer)


@pytest.fixture(scope="module")
def rloo(policy, tokenizer, tmp_path_factory) -> RLOOTrainer:
    config = RLOOConfig(output_dir=str(tmp_path_factory.mktemp("rloo")), beta=0.0, **PLUMBING)
    return RLOOTrainer(policy, no_reward, config, train_dataset=ROWS, processing_class=tokenizer)


class Answers:
    """The same answers for both: TRL's columns (answers by themselves, (B, 6)) and rows of ours."""

    def __init__(self, policy: LlamaForCausalLM, *, with_tool: bool = False) -> None:
        generator = torch.Generator().manual_seed(1)
        self.prompts = [torch.randint(3, V, (size,), generator=generator) for size in PROMPTS]
        self.answers = [torch.randint(3, V, (size,), generator=generator) for size in ANSWERS]
        said = [torch.ones(size, dtype=torch.bool) for size in ANSWERS]
        if with_tool:
            for row, places in TOOL.items():
                said[row][list(places)] = False
        self.said = self.padded(said, False)
        present = self.padded([torch.ones(size, dtype=torch.bool) for size in ANSWERS], False)
        width = max(PROMPTS)
        left = [torch.cat((torch.zeros(width - len(p), dtype=torch.int64), p)) for p in self.prompts]
        shape = self.said.shape
        self.columns = {
            "prompt_ids": torch.stack(left),
            "prompt_mask": torch.stack([torch.arange(width) >= width - len(p) for p in self.prompts]).long(),
            "completion_ids": self.padded(self.answers, 0),
            "completion_mask": present.long(),
            "advantages": torch.tensor([1.3, -0.7, 0.4, -1.1]),
            "num_items_in_batch": self.said.sum(),
        } | ({"tool_mask": self.said.long()} if with_tool else {})
        with torch.no_grad():
            own = self.logprobs(policy)
        for name, scale in {
            "old_per_token_logps": 0.3, "ref_per_token_logps": 0.4, "importance_sampling_ratio": 0.0
        }.items():  # fmt: skip
            noise = scale * torch.randn(shape, generator=generator)
            self.columns[name] = (own + noise) * self.said
        self.columns["old_logps"] = (self.columns["old_per_token_logps"] * self.said).sum(1)
        self.sampled = self.columns["old_per_token_logps"] + 0.2 * torch.randn(shape, generator=generator) * self.said

    @staticmethod
    def padded(rows: list[torch.Tensor], value: float) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(rows, True, value)

    def logprobs(self, model: LlamaForCausalLM) -> torch.Tensor:
        """(B, 6) of the answers, each row by itself."""
        rows = []
        for prompt, answer in zip(self.prompts, self.answers, strict=True):
            logits = model(torch.cat((prompt, answer))[None]).logits[0, len(prompt) - 1 : -1]
            rows.append(logits.log_softmax(-1).gather(1, answer[:, None])[:, 0])
        return self.padded(rows, 0.0)

    def batch(self) -> PolicyBatch:
        """Rows of ours: a prompt and its answer, padded at the end."""
        width = max(len(p) + len(a) for p, a in zip(self.prompts, self.answers, strict=True)) - 1

        def placed(columns: torch.Tensor, value: float = 0.0) -> torch.Tensor:
            rows = torch.full((len(columns), width), value, dtype=columns.dtype)
            for row, (prompt, answer) in enumerate(zip(self.prompts, self.answers, strict=True)):
                rows[row, len(prompt) - 1 : len(prompt) - 1 + len(answer)] = columns[row, : len(answer)]
            return rows

        ids = [torch.cat((p, a))[:-1] for p, a in zip(self.prompts, self.answers, strict=True)]
        return PolicyBatch(
            tokens=self.padded(ids, 0),
            targets=placed(self.columns["completion_ids"].where(self.said, IGNORE), IGNORE),
            sampled=placed(self.sampled),
            advantages=placed(self.columns["advantages"][:, None] * self.said),
            old=placed(self.columns["old_per_token_logps"]),
            reference=placed(self.columns["ref_per_token_logps"]),
            mean_length=float(self.said.sum()) / len(self.prompts),
        )


def assert_equal_losses(objective, batch, policy, their_loss) -> dict[str, torch.Tensor]:
    model = Transformer(ModelConfig(**SIZES))
    model.load_state_dict(policy.state_dict())
    loss, metrics = objective(model, batch)
    torch.testing.assert_close(loss, their_loss, **CLOSE)
    policy.zero_grad()
    loss.backward()
    their_loss.backward()
    theirs = {name: parameter.grad for name, parameter in policy.named_parameters()}
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    assert largest > 1e-3
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad / largest, theirs[name] / largest, **CLOSE)
    return metrics


def theirs(trainer, policy, answers, *, objective: PolicyGradient, loss_type: str, kl_weight: float) -> torch.Tensor:
    """TRL's loss with the settings of ours."""
    trainer.loss_type, trainer.beta = loss_type, kl_weight
    trainer.epsilon_low, trainer.epsilon_high = objective.epsilon_low, objective.epsilon_high
    trainer.importance_sampling_level = "sequence" if objective.ratio == "answer_mean" else "token"
    trainer.args.use_bias_correction_kl = objective.kl_corrected
    trainer.entropy_coef = objective.entropy_weight
    trainer._entropy_bonus_enabled = bool(objective.entropy_weight)
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = objective.importance_cap is not None
    if objective.importance_cap is not None:
        ratio = (answers.columns["old_per_token_logps"] - answers.sampled).exp()
        answers.columns["importance_sampling_ratio"] = ratio.clamp(max=objective.importance_cap)
    try:
        return trainer._compute_loss(policy, answers.columns)
    finally:
        trainer.use_vllm = False


LOSS_TYPES = {"grpo": "grpo", "dapo": "dapo", "dr_grpo": "dr_grpo", "gspo": "grpo", "cispo": "cispo"}


@pytest.mark.parametrize(
    ("kl_weight", "entropy_weight", "cap"), [(0.0, 0.0, None), (0.3, 0.0, None), (0.0, 0.05, None), (0.0, 0.0, 1.1)]
)
@pytest.mark.parametrize(("with_tool", "corrected"), [(False, True), (True, False)])
@pytest.mark.parametrize("variant", LOSS_TYPES)
def test_variants_of_grpo(variant, with_tool, corrected, kl_weight, entropy_weight, cap, grpo, policy):
    answers = Answers(policy, with_tool=with_tool)
    settings = {"entropy_weight": entropy_weight, "importance_cap": cap, "kl_corrected": corrected, "most_tokens": 8}
    objective = PolicyGradient(**VARIANTS[variant] | settings)
    expected = theirs(grpo, policy, answers, objective=objective, loss_type=LOSS_TYPES[variant], kl_weight=kl_weight)
    metrics = assert_equal_losses(objective, replace(answers.batch(), kl_weight=kl_weight), policy, expected)
    told = {name: values[-1] for name, values in grpo._metrics["eval"].items()}
    assert float(metrics["entropy"]) == pytest.approx(told["entropy"], abs=1e-5)
    if variant in ("grpo", "dapo", "dr_grpo"):
        assert float(metrics["clip_fraction"]) == pytest.approx(told["clip_ratio/region_mean"], abs=1e-6)


def test_bnpo_is_the_mean_over_the_tokens_of_a_batch(grpo, policy):
    answers, objective = Answers(policy), PolicyGradient(division="mean_length")
    expected = theirs(grpo, policy, answers, objective=objective, loss_type="bnpo", kl_weight=0.0)
    assert_equal_losses(objective, answers.batch(), policy, expected)


def test_the_only_update_of_a_rollout_needs_no_old_log_probabilities(grpo, policy):
    answers, objective = Answers(policy), PolicyGradient()
    del answers.columns["old_per_token_logps"]
    expected = theirs(grpo, policy, answers, objective=objective, loss_type="grpo", kl_weight=0.0)
    answers.columns["old_per_token_logps"] = torch.zeros_like(answers.sampled)
    assert_equal_losses(objective, replace(answers.batch(), old=None), policy, expected)


def test_rloo(rloo, policy):
    answers = Answers(policy)
    rloo.epsilon_low = rloo.epsilon_high = 0.2
    expected = rloo._compute_loss(policy, answers.columns)
    assert_equal_losses(PolicyGradient(**VARIANTS["rloo"]), answers.batch(), policy, expected)
