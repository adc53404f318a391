"""Tokens that no text holds: what prompt tuning and prefix tuning put in front of every text.

Their ids follow the vocabulary's, so a cache, packed documents and an engine treat them like any other token: they
stand at positions 0 to P - 1, and the text begins at P. Without a cache they are put in front of every document of the
batch and taken out of the result. With one, whoever fills it puts `virtual_ids(model)` in front of a text by itself,
since only he knows where texts begin. The output head never has them, so none is ever written.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from vesalius.adapt.holder import Holder, Switchboard
from vesalius.adapt.switch import check_name, switch, switchboard
from vesalius.core.errors import UserError
from vesalius.kernels.attention import PLAIN, AttentionRule, attention, document_mask
from vesalius.models.attention import Cache, Room
from vesalius.models.positions import reread_at
from vesalius.models.transformer import Decoder, Transformer


class VirtualTokens(nn.Module):
    """`count` tokens whose ids are `first` and those after it."""

    first: int
    count: int

    def embeddings(self) -> Tensor:
        """(P, D) in place of rows of the embedding."""
        raise NotImplementedError

    def keys_values(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Keys, already rotated, and values (K, P, E) of one layer in place of those that it would compute, or None."""
        raise NotImplementedError

    @property
    def ids(self) -> list[int]:
        return list(range(self.first, self.first + self.count))


class PromptedDecoder(Decoder, Holder):
    """The decoder that it is made from, which it shares everything with, for tokens among which are virtual ones."""

    def __init__(self, decoder: Decoder, board: Switchboard) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(decoder.__dict__)
        self._modules = dict(decoder._modules)
        self._decoder = (decoder,)  # in a tuple, so that it is no submodule
        self.adapters = nn.ModuleDict()
        self.board = board

    @property
    def untouched(self) -> nn.Module:
        return self._decoder[0]

    def parts(self) -> list[VirtualTokens]:
        """All virtual tokens, in use or not."""
        return [cast(VirtualTokens, part) for part in self.adapters.values()]

    def in_use(self, names: Sequence[str] | None = None) -> list[int]:
        """The ids that go in front of every text; with `names`, where these adapters are used."""
        names = self.board.active if names is None else names
        used = [cast(VirtualTokens, self.adapters[name]) for name in names if name in self.adapters]
        return [number for part in used for number in part.ids]

    def forward(self, tokens: Tensor, positions: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        if cache is not None:
            return self._decode(tokens, positions, cache)
        if not (ids := self.in_use()):
            return super().forward(tokens, positions)
        tokens, positions, places = insert(tokens, positions, torch.tensor(ids, device=tokens.device))
        hidden = self._decode(tokens, positions, None)  # (B, T + some P, D)
        return hidden.gather(1, places.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))

    def _decode(self, tokens: Tensor, positions: Tensor | None, cache: Cache | None) -> Tensor:
        """Of tokens of which some may be virtual."""
        if not bool((tokens >= self.config.vocab_size).any()):
            return super().forward(tokens, positions, cache)
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        given = Given(tokens, self.parts(), document_mask(positions) if cache is None else None, cache)
        return super().forward(tokens, positions, given)

    def _look_up(self, tokens: Tensor) -> Tensor:
        x = super()._look_up(tokens.where(tokens < self.config.vocab_size, 0))
        for part in self.parts():
            slots, virtual = slots_of(tokens, part)
            x = torch.where(virtual.unsqueeze(-1), part.embeddings()[slots].to(x.dtype), x)
        return x


class Given:
    """A cache in front of another, or of none: virtual tokens have the keys and values that they are given."""

    def __init__(self, tokens: Tensor, parts: list[VirtualTokens], mask: Tensor | None, behind: Cache | None) -> None:
        """mask (B, 1, T, T) says what reads what where there is no cache behind."""
        self._parts = [(part, *slots_of(tokens, part)) for part in parts]
        self._mask, self._behind = mask, behind

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule = PLAIN) -> Tensor:
        for part, slots, virtual in self._parts:
            if (given := part.keys_values(layer)) is not None:
                which = virtual[:, None, :, None]  # (B, 1, T, 1)
                k, v = (
                    torch.where(which, new[:, slots].transpose(0, 1).to(old.dtype), old)  # (B, K, T, E)
                    for new, old in zip(given, (k, v), strict=True)
                )
        if self._behind is not None:
            return self._behind.attend(layer, q, k, v, rule)
        return attention(q, k, v, causal=False, mask=self._mask, rule=rule)

    def room(self, layer: int, count: int) -> Room | None:
        return None  # others would write the keys that they compute


def slots_of(tokens: Tensor, part: VirtualTokens) -> tuple[Tensor, Tensor]:
    """For each token which of the virtual ones it is, 0 where it is none, and whether it is one: (B, T) each."""
    slots = tokens - part.first
    virtual = (slots >= 0) & (slots < part.count)
    return slots.where(virtual, 0), virtual


def insert(tokens: Tensor, positions: Tensor | None, ids: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """tokens and positions (B, T) with `ids` (P,) in front of every document, and where each token is now (B, T).

    Rows with fewer documents are filled up at their ends, with a document of its own that nothing reads.

    >>> insert(torch.tensor([[5, 6, 7]]), torch.tensor([[0, 1, 0]]), torch.tensor([9]))[0]
    tensor([[9, 5, 6, 9, 7]])
    """
    (B, T), P = tokens.shape, len(ids)
    if positions is None:
        places = (torch.arange(T, device=tokens.device) + P).expand(B, T)
        return torch.cat((ids.expand(B, P), tokens), 1), None, places
    starts = positions == 0
    starts[:, 0] = True
    places = torch.arange(T, device=tokens.device) + P * starts.cumsum(1)  # (B, T)
    length = int(places.max()) + 1
    filled = torch.zeros(B, length, dtype=tokens.dtype, device=tokens.device)
    where = torch.arange(length, device=tokens.device) - places[:, -1:] - 1  # (B, length), 0 and up behind the last
    where = where.clamp(min=0).scatter(1, places, positions + P)
    filled.scatter_(1, places, tokens)
    rows, columns = starts.nonzero(as_tuple=True)
    for slot in range(P):
        at = places[rows, columns] - P + slot
        filled[rows, at], where[rows, at] = ids[slot], slot
    return filled, where, places


def virtual_ids(model: Transformer, names: Sequence[str] | None = None) -> list[int]:
    """The ids that have to stand in front of every text that is read over a cache, of the adapters in use or of those
    named; none for most models."""
    decoder: nn.Module = model.model
    return decoder.in_use(names) if isinstance(decoder, PromptedDecoder) else []


def next_id(model: Transformer) -> int:
    """The first id that no token has."""
    decoder: nn.Module = model.model
    parts = decoder.parts() if isinstance(decoder, PromptedDecoder) else []
    return max([model.config.vocab_size, *(part.first + part.count for part in parts)])


def add_virtual(model: Transformer, name: str, part: VirtualTokens) -> None:
    """Puts virtual tokens of this name in front of every text, freezes the rest, and takes them into use alone.

    UserError where the name is taken, and for a model whose frequencies change where a text grows (LongRoPE): it is
    read again there, from its text.
    """
    check_name(model, name)
    if reread_at(model.config):
        raise UserError("a model with LongRoPE reads long texts again, without prompt or prefix: use another adapter")
    board, decoder = switchboard(model), model.model
    model.requires_grad_(False)
    if not isinstance(decoder, PromptedDecoder):
        decoder = PromptedDecoder(decoder, board).train(decoder.training)
        model.model = decoder
    decoder.adapters[name] = part.train(decoder.training)
    switch(model, name)
