"""Answers that hold to a grammar: before each draw, every token that could not be part of one becomes impossible.

Sampling from what is left gives a text that the grammar accepts, or the beginning of one where `max_tokens` ends it.
The library llguidance says which tokens are left: its parser walks all texts of the vocabulary at once, as a trie,
along what the grammar allows (Kuchnik et al. 2023, arXiv:2206.04615, is the idea; Earley's parser over a lexer of lazy
automata the way). That takes about as long as a layer of a small model, so `prepare` begins with it in another thread,
which holds no lock of Python's, while the model runs.

End tokens are allowed exactly where the text so far is whole; where nothing can follow, only they are. A model that has
none is to be stopped where `finished` says so.

Where the grammar leaves no choice of the next bytes, only the tokens that the tokenizer itself would write are left: a
model has seldom seen a word spelt out in letters. Elsewhere every token that fits is.

A vocabulary of SentencePiece writes a blank before a text, and decoding drops it: there the grammar begins with it.
Left out: leaving an answer's reasoning free, and bytes that no token of the vocabulary can spell.
"""

import functools
import json
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from torch import Tensor

from vesalius.core.errors import UserError, VesaliusError
from vesalius.infer.constraint_spec import ConstraintSpec
from vesalius.infer.grammar_trial import first_line, limits, reason_against
from vesalius.tokenizers.tokenizer import Tokenizer

__all__ = ["Constraint", "ConstraintSpec", "compile_constraint"]

COMPILED_KEPT = 32
"""Grammars that each vocabulary keeps ready, those used last."""


def compile_constraint(tokenizer: Tokenizer, spec: ConstraintSpec) -> "Constraint":
    """The constraint at the beginning of an answer. A grammar that was used before costs nothing.

    UserError with the library's reason where it cannot be read; VesaliusError where tokens have no bytes of their own.
    """
    vocabulary = _vocabulary(tokenizer)
    return Constraint(vocabulary, vocabulary.compiled(spec.grammar).deep_copy())


class Constraint:
    """The state of one constrained answer. Not thread-safe: `prepare` has its thread, the rest waits for it."""

    def __init__(self, vocabulary: "_Vocabulary", matcher: LLMatcher) -> None:
        self._vocabulary = vocabulary
        self._matcher = matcher
        self._mask: Future[Tensor] | None = None
        self._ended = False

    def prepare(self) -> None:
        """Begins to find out which tokens may be next, in the background."""
        if self._mask is None:
            self._mask = self._vocabulary.pool.submit(self._vocabulary.mask, self._matcher)

    def allowed(self) -> Tensor:
        """(vocabulary,) bool: which tokens may be next. VesaliusError where the grammar takes the library too much."""
        self.prepare()
        assert self._mask is not None
        return self._mask.result()

    def apply(self, scores: Tensor) -> Tensor:
        """scores (V,) -> (V,), -inf where a token is not allowed. VesaliusError as in `allowed`, and where none is."""
        allowed = self.allowed()[: len(scores)]
        if not allowed.any():
            raise VesaliusError("the vocabulary has no token that goes on as the answer must: change the grammar")
        allowed = torch.nn.functional.pad(allowed, (0, len(scores) - len(allowed)))  # ids that only pad the embedding
        return scores.masked_fill(~allowed.to(scores.device), -torch.inf)

    def accept(self, token: int) -> None:
        """Goes on by a token that was drawn. ValueError for one that is not allowed, or after the end."""
        self._wait()
        if self._ended or not self._vocabulary.goes_on(self._matcher, token):
            raise ValueError(f"token {token} is not allowed here: draw from what `apply` leaves")
        self._ended = token in self._vocabulary.ends
        self._mask = None

    def fork(self) -> "Constraint":
        """Another answer that begins as this one."""
        self._wait()
        other = Constraint(self._vocabulary, self._matcher.deep_copy())
        other._mask, other._ended = self._mask, self._ended
        return other

    def forced(self) -> list[int]:
        """The tokens that must follow, as the tokenizer would write them; none where there is a choice.

        The last tokens of a forced text may be missing: what follows it could join with them.
        """
        self._wait()
        return [] if self._matcher.is_stopped() else self._matcher.compute_ff_tokens()

    @property
    def finished(self) -> bool:
        """Whether nothing can follow but an end token, if there is one."""
        self._wait()
        if self._ended or self._matcher.is_stopped():
            return True
        # The library may see only as it looks at all tokens that none can follow.
        return not self._vocabulary.ends and self._matcher.is_accepting() and not bool(self.allowed().any())

    @property
    def complete(self) -> bool:
        """Whether the text so far is whole: the answer may end here."""
        self._wait()
        return self._ended or self._matcher.is_accepting()

    def _wait(self) -> None:
        if self._mask is not None:
            self._mask.result()


class _Vocabulary:
    """A tokenizer as the library reads it, and the grammars made ready for it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.ends = frozenset(tokenizer.eos_ids)
        self.size = tokenizer.vocab_size
        self.pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="constrain")
        # The library wants an end token: one past the vocabulary stands for none.
        words = _Words(tokenizer, tokenizer.eos_ids or (self.size,))
        self._tokens = LLTokenizer(TokenizerWrapper(words), eos_token=list(tokenizer.eos_ids or (self.size,)))
        self._special_tokens = tokenizer.special_tokens
        self._drops_blank = tokenizer.drops_first_blank
        self._with_blank = torch.tensor([word.startswith(b" ") for word in words.tokens[: self.size]])
        self.compiled = functools.lru_cache(COMPILED_KEPT)(self._compile)

    def mask(self, matcher: LLMatcher) -> Tensor:
        """(vocabulary,) bool: the tokens that may be next."""
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        if matcher.is_error():
            raise VesaliusError(_too_much(matcher))
        allowed = np.unpackbits(bits, count=self.size, bitorder="little").view(bool)
        allowed[list(self.ends)] = matcher.is_accepting()  # a grammar may name an end token, but cannot go on after it
        return torch.from_numpy(allowed)

    def goes_on(self, matcher: LLMatcher, token: int) -> bool:
        """Takes a token, if it is allowed."""
        if token in self.ends:
            return matcher.is_accepting()
        if matcher.is_stopped() or not 0 <= token < self.size or matcher.validate_tokens([token]) != 1:
            return False
        if not matcher.consume_token(token):
            raise VesaliusError(_too_much(matcher))
        return True

    def _compile(self, grammar: str) -> LLMatcher:
        if reason := reason_against(grammar, self._special_tokens):
            raise UserError(f"cannot hold an answer to this: {reason}")
        matcher = self._matcher(grammar)
        if not self._drops_blank:
            return matcher
        # Where the answer itself may begin with a blank, there must be another before it for decoding to drop.
        needed = self.mask(matcher)[self._with_blank].any()
        parts = json.loads(grammar)["grammars"]
        first = {"name": "text", "lark_grammar": f'start: " "{"" if needed else "?"} @{parts[0]["name"]}'}
        return self._matcher(json.dumps({"grammars": [first, *parts]}))

    def _matcher(self, grammar: str) -> LLMatcher:
        """At the beginning, and sure to get to a first token."""
        matcher = LLMatcher(self._tokens, grammar, log_level=0, limits=limits())
        first = matcher.deep_copy()
        first.compute_bitmask()
        if first.is_error():
            raise UserError(f"cannot hold an answer to this: {first_line(first.get_error())}")
        return matcher


@functools.lru_cache(maxsize=4)
def _vocabulary(tokenizer: Tokenizer) -> _Vocabulary:
    return _Vocabulary(tokenizer)


class _Words:
    """What the library asks of a tokenizer (`llguidance.TokenizerWrapper`)."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, ends: Sequence[int]) -> None:
        unknown = () if tokenizer.unknown_id is None else (tokenizer.unknown_id,)
        known = set(tokenizer.backend.get_vocab().values())
        self.eos_token_id = ends[0]
        self.special_token_ids = sorted({*tokenizer.special_tokens.values(), *ends, *unknown})
        self.tokens = [
            tokenizer.token_bytes(token) if token in known else b"<end>" if token in ends else b""
            for token in range(max(tokenizer.vocab_size, ends[-1] + 1))
        ]
        self._tokenizer = tokenizer

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode(), after="text")


def _too_much(matcher: LLMatcher) -> str:
    return f"the answer's grammar is too much for the library: {first_line(matcher.get_error())}"
