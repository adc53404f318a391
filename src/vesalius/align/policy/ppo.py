"""PPO: a policy and a critic that says of every token how much reward is still to come. Schulman et al. 2017,
arXiv:1707.06347; for language models Ziegler et al. 2019, arXiv:1909.08593.

    L = L_policy - c_H H + c_V · ½ mean max((V - R)², (clip(V, V_old ± ε_V) - R)²)

The policy's part is align/policy/objective with the ratio of tokens and GAE's advantages, divided by the mean length.
Policy and critic travel as one module, so that the one loop trains them and one checkpoint holds both; the policy alone
is the model that is saved. The critic is either a line on the policy's own last hidden states, cut off from them so
that its errors do not disturb the policy, and then costs nearly nothing; or a decoder of its own that begins as a copy
of the policy's, which sees more and doubles the memory.
"""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vesalius.align.logprobs import hidden_logprobs_and_entropy
from vesalius.align.policy.batch import PolicyBatch
from vesalius.align.policy.objective import PolicyGradient, token_mean
from vesalius.align.policy.reading import reading_of
from vesalius.models.transformer import Transformer

Critic = Literal["head", "decoder"]


class ActorCritic(nn.Module):
    """A policy and its critic. The values begin at 0."""

    def __init__(self, policy: Transformer, critic: Critic) -> None:
        super().__init__()
        self.policy = policy
        self.critic = copy.deepcopy(policy.model) if critic == "decoder" else None
        weight = policy.model.embed_tokens.weight
        self.value = nn.Linear(policy.config.hidden_size, 1, device=weight.device)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """tokens and positions (B, T) -> the policy's hidden states (B, T, D) and the values (B, T) float32."""
        hidden = self.policy.model(tokens, positions)
        seen = hidden.detach() if self.critic is None else self.critic(tokens, positions)
        return hidden, self.value(seen).squeeze(-1).float()


@dataclass(frozen=True, kw_only=True)
class ProximalPolicy:
    """PPO's loss on an `ActorCritic`. Metrics: those of the policy, the critic's loss, and the part of the returns'
    variance that its values explain.

    value_clip  ε_V; None: values may move freely
    """

    policy: PolicyGradient
    value_weight: float = 0.5
    value_clip: float | None = 0.2

    def __call__(self, model: nn.Module, batch: PolicyBatch) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(model, ActorCritic), "it takes a policy and a critic"
        reading = reading_of(batch, model.policy.config)
        hidden, values = model(reading.tokens, reading.positions)  # (R, W, D), (R, W)
        temperature = self.policy.temperature
        logp, entropy = hidden_logprobs_and_entropy(model.policy, hidden, reading.targets, temperature=temperature)
        loss, metrics = self.policy.of(reading.back(logp), reading.back(entropy), batch)
        value_loss = token_mean(self.value_losses(reading.back(values), batch), batch)
        return loss + self.value_weight * value_loss, metrics | {"value_loss": value_loss.detach()}

    def value_losses(self, values: Tensor, batch: PolicyBatch) -> Tensor:
        """values (B, T) -> ½ of the larger square (B, T)."""
        assert batch.values is not None, "a critic's batch has values"
        assert batch.returns is not None, "and returns"
        squares = (values - batch.returns).square()
        if self.value_clip is not None:
            clipped = batch.values + (values - batch.values).clamp(-self.value_clip, self.value_clip)
            squares = torch.max(squares, (clipped - batch.returns).square())
        return squares / 2
