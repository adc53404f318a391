"""Token ids in, text out, a piece at a time: never half a character, and never the beginning of a stop text.

A token of a byte-level vocabulary may end inside a character, and a stop text may begin in one token and end in
another. What could still become either is held back until the next token decides. Bytes that are no UTF-8 become
U+FFFD as in `bytes.decode(errors="replace")`. The blank that SentencePiece puts before a text is left out again where
the vocabulary's own decoding does so.
"""

import codecs
from collections.abc import Collection

from vesalius.tokenizers.tokenizer import Tokenizer


class Detokenizer:
    """The text of one sequence. Special and end tokens have none but those that are `shown`, such as a mark of a tool's
    call; nor do ids past the vocabulary, which only pad the model's embedding.

    After `stopped` it takes no more.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...] = (), shown: Collection[str] = ()) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        shown_ids = {tokenizer.special_tokens[text] for text in shown}
        self._silent = frozenset({*tokenizer.special_tokens.values(), *tokenizer.eos_ids}) - shown_ids
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = stop
        self._held = ""
        self._drops_blank = tokenizer.drops_first_blank  # until the first token that has a text

    def push(self, token: int) -> str:
        """The text that is certain after one more token, "" where it is all held back."""
        if token in self._silent or token >= self._tokenizer.vocab_size:
            return ""
        data = self._tokenizer.token_bytes(token)
        if self._drops_blank:
            data, self._drops_blank = data.removeprefix(b" "), False
        self._held += self._decoder.decode(data)
        return self._release(_could_begin(self._held, self._stop))

    def close(self) -> str:
        """What was held back, when no more tokens come."""
        self._held += self._decoder.decode(b"", final=True)
        return self._release(0)

    def _release(self, keep: int) -> str:
        """Takes all but the last `keep` characters, or what stands before a stop text."""
        ends = [(place + len(stop), place) for stop in self._stop if (place := self._held.find(stop)) >= 0]
        self.stopped = self.stopped or bool(ends)
        # The stop that ends first wins, so that the text does not depend on where tokens end.
        cut = min(ends)[1] if ends else len(self._held) - keep
        text, self._held = self._held[:cut], "" if ends else self._held[cut:]
        return text


def _could_begin(text: str, stops: tuple[str, ...]) -> int:
    """How many characters at the end of `text` could be the beginning of a stop text.

    >>> _could_begin("so far <", ("<|", "\\n\\n"))
    1
    """
    longest = min(len(text), max(map(len, stops), default=1) - 1)
    return next((n for n in range(longest, 0, -1) if any(stop.startswith(text[-n:]) for stop in stops)), 0)
