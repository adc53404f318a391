"""A Transformer that gives numbers in place of the next token: its hidden states through a small linear head.

    reward model           r(x, y) = w · h_T, at the last token of an answer            Stiennon et al. 2020
    process reward model   p(right | x, y_≤t) = softmax(W h_t + b), at the end of steps Lightman et al. 2023

The head is put on from outside (contract 2): the bundle holds the decoder of a built model, whatever adapters are in
it, and lets its output head go. Names and shapes are those of transformers' ForSequenceClassification (one label, no
bias) and ForTokenClassification (two labels, with a bias), so each opens the other's files (scoring_files).

The head is drawn so that the first rewards have deviation 1, and the decoder a gradient from the first step on: with
1/√(D + 1) where the last norm only normalises (Stiennon et al. 2020, arXiv:2009.01325, appendix B.1), and with
1/√(Σ g² + 1) where it multiplies by gains g, which in trained models are far from 1.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Decoder, Transformer

REWARD, STEPS = 1, 2
"""How many numbers a token has: its reward; or the logits of its step being wrong and right."""


class ScoringModel(nn.Module):
    """tokens (B, T) -> (B, T, C) float32, C = `labels` numbers a token. `model` is the decoder, `score` the head.

    `config` is that of the model that the decoder came from.
    """

    def __init__(self, decoder: Decoder, config: ModelConfig, labels: int, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.model = decoder
        self.score = nn.Linear(config.hidden_size, labels, bias=labels != REWARD)
        table, gains = (
            decoder.embed_tokens.weight,
            decoder.norm.get_parameter("weight").detach().float() + float(config.norm_offset),
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.score.weight.normal_(std=float(gains.square().sum() + 1) ** -0.5, generator=generator)
            if self.score.bias is not None:
                self.score.bias.zero_()
        self.score.to(table.device, table.dtype)

    @classmethod
    def on(cls, model: Transformer, labels: int = REWARD, *, seed: int = 0) -> "ScoringModel":
        """A fresh head on a model's own decoder, which is shared and not copied: training it changes the model."""
        return cls(model.model, model.config, labels, seed=seed)

    @property
    def labels(self) -> int:
        """How many numbers each token has."""
        return self.score.out_features

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """tokens and positions (B, T) as in `Transformer`."""
        return self._read_out(self.model(tokens, positions))

    def at(self, tokens: Tensor, positions: Tensor | None, wanted: Tensor) -> Tensor:
        """The numbers of the tokens that `wanted` (B, T) bool marks, row by row: (N, C) float32."""
        return self._read_out(self.model(tokens, positions)[wanted])

    def _read_out(self, hidden: Tensor) -> Tensor:
        """hidden (…, D) -> (…, C). In float32 also under autocast: rewards that bfloat16 holds are 1 % apart."""
        bias = self.score.bias
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.float(), self.score.weight.float(), None if bias is None else bias.float())
