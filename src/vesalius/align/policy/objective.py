"""Policy gradients on sampled answers: REINFORCE, RLOO, PPO's policy, and GRPO with the variants that matter.

Every variant is a ratio of probabilities, a surrogate of ratio and advantage, and what a token's loss is divided by:

    ratio ρ        token               π(y_t) / π_old(y_t)
                   answer mean         exp of the mean of their logarithms over the answer: GSPO
                   answer              exp of the sum: the answer as one action, RLOO
    surrogate      clip                -min(ρ A, clip(ρ, 1 - ε_low, 1 + ε_high) A)
                   capped              -sg(min(ρ, ε_high)) A log π: every token keeps its gradient, CISPO
                   score               -A log π: REINFORCE
    divided by     own length          the mean over its answer, then over answers: GRPO
                   mean length         the mean over all tokens: DAPO
                   most tokens         a constant, so that long answers weigh neither less nor more: Dr. GRPO
                   nothing             the sum over the answer

What is then added: the KL to the reference, times batch.kl_weight and ρ, divided likewise; minus the entropy, a mean
over tokens. Truncated importance sampling multiplies a token's surrogate by min(π_old / π_engine, C), where the engine
computes otherwise than the trainer (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
training").

Sources: Williams 1992; PPO: Schulman et al. 2017, arXiv:1707.06347, (7); RLOO: Ahmadian et al. 2024, arXiv:2402.14740;
GRPO: Shao et al. 2024, arXiv:2402.03300, (3); DAPO: Yu et al. 2025, arXiv:2503.14476, (8) to (12); Dr. GRPO: Liu et al.
2025, arXiv:2503.20783, section 3; GSPO: Zheng et al. 2025, arXiv:2507.18071, (5) to (7); CISPO: MiniMax 2025,
arXiv:2506.13585, (4) and (5).
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vesalius.align.logprobs import hidden_logprobs_and_entropy
from vesalius.align.policy.batch import PolicyBatch
from vesalius.align.policy.kl import ESTIMATORS
from vesalius.align.policy.reading import reading_of
from vesalius.data.batch import IGNORE
from vesalius.models.transformer import Transformer

Ratio = Literal["token", "answer_mean", "answer"]
Surrogate = Literal["clip", "capped", "score"]
Division = Literal["own_length", "mean_length", "most_tokens", "nothing"]
Estimator = Literal["k1", "k2", "k3"]


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """The loss and, as metrics, means over tokens: entropy (nats), how far the update moved the policy from the one
    that sampled (k3), the share of tokens whose gradient is clipped away, and the engine's mean importance ratio.

    most_tokens     what "most_tokens" divides by
    kl_corrected    whether the KL is weighed by the ratio, which makes its gradient that of the true KL even in the
                    first update, where the ratio is 1 (DeepSeek-V3.2, arXiv:2512.02556, section 3.1)
    importance_cap  C; None: the engine's log-probabilities are taken as the trainer's own
    """

    ratio: Ratio = "token"
    surrogate: Surrogate = "clip"
    division: Division = "own_length"
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    kl_estimator: Estimator = "k3"
    kl_corrected: bool = True
    entropy_weight: float = 0.0
    importance_cap: float | None = None
    most_tokens: int = 1
    temperature: float = 1.0

    def __call__(self, model: nn.Module, batch: PolicyBatch) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(model, Transformer), "answers are read from its hidden states"
        reading = reading_of(batch, model.config)
        hidden = model.model(reading.tokens, reading.positions)  # (R, W, D)
        logp, entropy = hidden_logprobs_and_entropy(model, hidden, reading.targets, temperature=self.temperature)
        return self.of(reading.back(logp), reading.back(entropy), batch)

    def of(self, logp: Tensor, entropy: Tensor, batch: PolicyBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The same from the policy's log-probabilities and entropies (B, T)."""
        said = batch.targets != IGNORE
        old = logp.detach() if batch.old is None else batch.old
        ratio = self._log_ratio(logp - old, said).exp()  # (B, T), or (B, 1) of an answer
        losses = self._losses(ratio, logp, batch.advantages)  # (B, T)
        importance = (old - batch.sampled).exp()
        if self.importance_cap is not None:
            losses = losses * importance.clamp(max=self.importance_cap)
        if batch.kl_weight:
            assert batch.reference is not None, "who weighs the KL gives the reference"
            kl = ESTIMATORS[self.kl_estimator](logp, batch.reference)
            losses = losses + batch.kl_weight * (kl * ratio if self.kl_corrected else kl)
        loss = (losses * said / self._divisor(said, batch)).sum(1).mean()
        spread = token_mean(entropy, batch)
        metrics = {
            "entropy": spread,
            "moved": token_mean(ESTIMATORS["k3"](old, logp), batch),
            "clip_fraction": token_mean(self._clipped(ratio, batch.advantages).float(), batch),
            "importance": token_mean(importance, batch),
        }
        return loss - self.entropy_weight * spread, {name: value.detach() for name, value in metrics.items()}

    def _log_ratio(self, difference: Tensor, said: Tensor) -> Tensor:
        """log π - log π_old (B, T) -> log ρ."""
        match self.ratio:
            case "token":
                return difference
            case "answer":
                return (difference * said).sum(1, keepdim=True)
            case "answer_mean":
                return (difference * said).sum(1, keepdim=True) / said.sum(1, keepdim=True).clamp(min=1)

    def _losses(self, ratio: Tensor, logp: Tensor, advantages: Tensor) -> Tensor:
        """What each token loses by the surrogate (B, T)."""
        match self.surrogate:
            case "clip":
                clipped = ratio.clamp(1 - self.epsilon_low, 1 + self.epsilon_high)
                return -torch.min(ratio * advantages, clipped * advantages)
            case "capped":
                return -ratio.clamp(max=self.epsilon_high).detach() * advantages * logp
            case "score":
                return -advantages * logp

    def _divisor(self, said: Tensor, batch: PolicyBatch) -> Tensor | float:
        match self.division:
            case "own_length":
                return said.sum(1, keepdim=True).clamp(min=1)  # (B, 1)
            case "mean_length":
                return batch.mean_length
            case "most_tokens":
                return self.most_tokens
            case "nothing":
                return 1

    def _clipped(self, ratio: Tensor, advantages: Tensor) -> Tensor:
        """Which tokens have no gradient, or (capped) less (B, T)."""
        match self.surrogate:
            case "clip":
                too_low, too_high = ratio < 1 - self.epsilon_low, ratio > 1 + self.epsilon_high
                return (too_low & (advantages < 0)) | (too_high & (advantages > 0))
            case "capped":
                return (ratio > self.epsilon_high) & (advantages > 0)
            case "score":
                return torch.zeros_like(advantages, dtype=torch.bool)


def token_mean(values: Tensor, batch: PolicyBatch) -> Tensor:
    """values (B, T) -> their mean over the targets; of a part of a batch, what averages to that over the parts."""
    return (values * (batch.targets != IGNORE)).sum(1).mean() / max(batch.mean_length, 1e-9)


VARIANTS: dict[str, dict[str, Any]] = {
    "reinforce": {"surrogate": "score", "division": "nothing"},
    "rloo": {"ratio": "answer", "division": "own_length"},
    "grpo": {},
    "dapo": {"division": "mean_length", "epsilon_high": 0.28},
    "dr_grpo": {"division": "most_tokens"},
    "gspo": {"ratio": "answer_mean", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
    "cispo": {"surrogate": "capped", "division": "mean_length", "epsilon_high": 5.0},
}
"""The settings by which the papers' methods are known; the advantages that go with them are in `COMPARISONS_OF`."""

COMPARISONS_OF: dict[str, str] = {
    "reinforce": "batch_mean",
    "rloo": "leave_one_out",
    "grpo": "group",
    "dapo": "group",
    "dr_grpo": "group_mean",
    "gspo": "group",
    "cispo": "group",
}
"""What each method compares an answer with (align/policy/advantages)."""
