r"""Ways to cut a text before the model sees it, each one pattern, and as steps of the Rust library.

The pieces are all matches of a pattern; what no match covers is gone. So a rule that says what is removed ("at blanks")
is written as what stays ("everything but blanks"), and every rule is one line.

    blanks            at white space, which goes
    words             at white space, and between letters and signs (the library's `Whitespace`)
    bert              at white space, and every sign alone
    signs             every sign alone, the rest as it is
    digits            every digit alone; digit_runs: all digits of a number together
    metaspace         before every "▁", as which a space is written: SentencePiece's words
    gpt2              Radford et al. 2019, `encoder.py`
    llama3            `pretokenize.py`, which our byte-level vocabularies have

The last three and `signs`, `digits` and `digit_runs` lose nothing.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import regex
from tokenizers import Regex, pre_tokenizers

from vesalius.tokenizers.backends import BLANK
from vesalius.tokenizers.gguf.pretokenizers import GPT2
from vesalius.tokenizers.pretokenize import PATTERN


class Splitter(NamedTuple):
    """One rule twice."""

    pattern: str
    backend: Callable[[], pre_tokenizers.PreTokenizer]


def split(text: str, name: str) -> list[str]:
    """The pieces of a text by the named rule.

    >>> split("It's 10 o'clock", "words")
    ['It', "'", 's', '10', 'o', "'", 'clock']
    """
    return regex.findall(SPLITTERS[name].pattern, text.replace(" ", BLANK) if name == "metaspace" else text)


_SIGNS = r"\p{P}$+<=>^`|~"
_LETTERS = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}"

SPLITTERS: dict[str, Splitter] = {
    "blanks": Splitter(r"\P{White_Space}+", pre_tokenizers.WhitespaceSplit),
    "words": Splitter(rf"[{_LETTERS}]+|[^{_LETTERS}\p{{White_Space}}]+", pre_tokenizers.Whitespace),
    "bert": Splitter(rf"[{_SIGNS}]|[^{_SIGNS}\p{{White_Space}}]+", pre_tokenizers.BertPreTokenizer),
    "signs": Splitter(rf"[{_SIGNS}]|[^{_SIGNS}]+", pre_tokenizers.Punctuation),
    "digits": Splitter(r"\p{N}|\P{N}+", partial(pre_tokenizers.Digits, individual_digits=True)),
    "digit_runs": Splitter(r"\p{N}+|\P{N}+", pre_tokenizers.Digits),
    "metaspace": Splitter(f"{BLANK}[^{BLANK}]*|[^{BLANK}]+", partial(pre_tokenizers.Metaspace, prepend_scheme="never")),
    "gpt2": Splitter(GPT2, partial(pre_tokenizers.Split, Regex(GPT2), "isolated")),
    "llama3": Splitter(PATTERN, partial(pre_tokenizers.Split, Regex(PATTERN), "isolated")),
}
