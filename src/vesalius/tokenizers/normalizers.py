"""What is done to a text before it is cut, by hand and as steps of the Rust library, by the names that a recipe gives.

    nfc, nfd, nfkc, nfkd   Unicode's normal forms (UAX #15): one spelling for what reads the same, composed or taken
                           apart; the k forms also for what only looks different, such as "ﬁ" and "①"
    lowercase              every character by itself, as the library does, so that "Σ" is never a final sigma
    strip_accents          marks go, which a letter has of its own only in nfd and nfkd
    bert, bert_uncased     BERT's cleaning (Devlin et al. 2019, `tokenization.py: BasicTokenizer`): blanks are spaces,
                           control characters go, Chinese characters stand alone; uncased without accents and capitals

Each loses something, so a tokenizer with it doesn't give back every text as it was. The forms depend on the version of
Unicode: characters that are newer than Python's or the library's may differ.
"""

import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import regex
import tokenizers
from tokenizers import normalizers

from vesalius.core.errors import UserError, nearest


class Normalizer(NamedTuple):
    """One rule twice."""

    by_hand: Callable[[str], str]
    backend: Callable[[], normalizers.Normalizer]


def normalize(text: str, names: Sequence[str]) -> str:
    """The text after the named rules, one after the other.

    >>> normalize("ﬁancé", ["nfkd", "strip_accents"])
    'fiance'
    """
    for name in names:
        text = NORMALIZERS[name].by_hand(text)
    return text


def check_normalizers(names: Sequence[str]) -> None:
    """UserError where one of the names is none."""
    for name in names:
        if name not in NORMALIZERS:
            raise UserError(f"unknown normalizer {name!r}: {nearest(name, NORMALIZERS)}")


def put_normalizers(backend: tokenizers.Tokenizer, names: Sequence[str]) -> None:
    """Makes a backend do the named rules before what it does already."""
    if names:
        steps = [NORMALIZERS[name].backend() for name in names]
        own = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([*steps, *own])


def lowercase(text: str) -> str:
    """Small letters, without a look at the neighbours."""
    return "".join(map(str.lower, text))


def strip_accents(text: str) -> str:
    """Without marks of any kind."""
    return _MARKS.sub("", text)


def bert(text: str, *, uncased: bool) -> str:
    """BERT's cleaning, in its order."""
    text = _BLANKS.sub(" ", _CONTROLS.sub("", text))
    text = _CHINESE.sub(r" \g<0> ", text)
    if uncased:
        text = lowercase(_NONSPACING.sub("", unicodedata.normalize("NFD", text)))
    return text


_MARKS = regex.compile(r"\p{M}")
_NONSPACING = regex.compile(r"\p{Mn}")
_CONTROLS = regex.compile(r"[\p{Cc}\p{Cf}\p{Co}\ufffd--[\t\n\r]]", regex.V1)
_BLANKS = regex.compile(r"\p{White_Space}")
_CHINESE = regex.compile(
    "[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f\U0002b920-\U0002ceaf"
    "\uf900-\ufaff\U0002f800-\U0002fa1f]"
)
"""The blocks of CJK ideographs as the library has them."""

NORMALIZERS: dict[str, Normalizer] = {
    "nfc": Normalizer(partial(unicodedata.normalize, "NFC"), normalizers.NFC),
    "nfd": Normalizer(partial(unicodedata.normalize, "NFD"), normalizers.NFD),
    "nfkc": Normalizer(partial(unicodedata.normalize, "NFKC"), normalizers.NFKC),
    "nfkd": Normalizer(partial(unicodedata.normalize, "NFKD"), normalizers.NFKD),
    "lowercase": Normalizer(lowercase, normalizers.Lowercase),
    "strip_accents": Normalizer(strip_accents, normalizers.StripAccents),
    "bert": Normalizer(partial(bert, uncased=False), partial(normalizers.BertNormalizer, lowercase=False)),
    "bert_uncased": Normalizer(partial(bert, uncased=True), normalizers.BertNormalizer),
}
