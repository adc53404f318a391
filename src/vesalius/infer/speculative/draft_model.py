"""A smaller model with the same vocabulary drafts a chain. Leviathan et al. 2023, arXiv:2211.17192, section 2.

It reads what was written since its last draft, forgets of that draft what did not stand, and writes on by itself:
greedily where the sequence is greedy, else by draws with the same temperature and cuts, whose distributions go along.
Penalties that count tokens are left to the verification: a draft is less often right, the answer never wrong.
Left out: drafts of several sequences in one step, and memory for its keys and values within the engine's.
"""

import torch
from torch import Tensor

from vesalius.core.errors import UserError
from vesalius.infer.cache import DenseCache, cache_for
from vesalius.infer.intake import placement
from vesalius.infer.sampling import GREEDY_BELOW, draw, likeliest
from vesalius.infer.sequence import Sequence
from vesalius.infer.speculative.draft import EMPTY, Draft
from vesalius.infer.speculative.proposer import PerSequence
from vesalius.infer.speculative.verify import distribution
from vesalius.models.config import ModelConfig
from vesalius.models.positions import reread_at
from vesalius.models.transformer import Transformer

PIECE = 512
"""Tokens of a prompt that are read at once."""


class DraftModel:
    """Drafts with `model`, which stays in the mode it is in."""

    needs_hidden = False

    def __init__(self, model: Transformer, target: ModelConfig) -> None:
        """UserError where its vocabulary is not the target's: its guesses would be other words."""
        if model.config.vocab_size != target.vocab_size:
            raise UserError(
                f"the draft model has {model.config.vocab_size} tokens and the model {target.vocab_size}: "
                "take a smaller model of the same family, with the same tokenizer"
            )
        self.model = model
        self._readers = PerSequence(lambda: Reader(model))

    @torch.inference_mode()
    def propose(self, sequence: Sequence, limit: int) -> Draft:
        """A chain of `limit` tokens, or of what its context has room for."""
        reader = self._readers.of(sequence)
        length = sequence.length
        limit = min(limit, self.model.config.max_position_embeddings - length)
        if limit < 1:
            return EMPTY
        scores = reader.catch_up(sequence)
        greedy = sequence.params.temperature < GREEDY_BELOW
        tokens: list[int] = []
        rows: list[Tensor] = []
        while True:
            if greedy:
                tokens.append(int(likeliest(scores)))
            else:
                rows.append(distribution(scores, sequence.params))
                tokens.append(int(draw(rows[-1], sequence.generator)))
            if len(tokens) == limit:
                return Draft.chain(tokens, None if greedy else torch.stack(rows))
            scores = reader.read(tokens[-1:])

    def close(self, sequence: Sequence) -> None:
        self._readers.close(sequence)


class Reader:
    """One sequence as the draft model has read it: its cache, and which tokens lie there."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._device, dtype = placement(model)
        self._cache: DenseCache = cache_for(model.config, dtype=dtype, device=self._device)
        self._certain = 0
        self._guessed: list[int] = []  # read behind the certain ones, some of which may have come true

    def catch_up(self, sequence: Sequence) -> Tensor:
        """Reads what was written -> the scores (V,) of the next token."""
        new = sequence.tokens(self._certain, sequence.length)
        right = next((i for i, (a, b) in enumerate(zip(self._guessed, new, strict=False)) if a != b), None)
        right = min(len(self._guessed), len(new)) if right is None else right
        # The last token is read in any case: what the cache holds has no scores.
        self._cache.truncate(self._certain + min(right, len(new) - 1))
        length = sequence.length
        if self._cache.length < reread_at(self._model.config) <= length:
            self._cache.truncate(0)
        self._certain, self._guessed = length, []
        return self._read(sequence.tokens(self._cache.length, sequence.length))

    def read(self, tokens: list[int]) -> Tensor:
        """Reads guesses -> the scores (V,) after them."""
        self._guessed += tokens
        return self._read(tokens)

    def _read(self, tokens: list[int]) -> Tensor:
        for start in range(0, len(tokens), PIECE):
            piece = torch.tensor([tokens[start : start + PIECE]], device=self._device)
            hidden = self._model.model(piece, self._cache.positions(piece.shape[1]), self._cache)  # (1, T, D)
        return self._model.logits(hidden[0, -1])
