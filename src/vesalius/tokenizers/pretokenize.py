r"""Cuts text into the pieces that byte-pair merges may not cross, and writes bytes as printable characters.

The pattern is Llama 3's, which is cl100k's (tiktoken, `tiktoken_ext/openai_public.py`): a word keeps the space or sign
before it, digits go by threes, and the last line end of a blank stretch ends a piece. GPT-2's pattern takes any number
of digits as one piece, and line ends together with the indentation that follows.

A vocabulary file holds strings, so GPT-2 (Radford et al. 2019, `encoder.py: bytes_to_unicode`) writes every byte as one
printable character: itself where it is a visible Latin-1 sign, else the next free one from U+0100 on (a space is "Ġ").

What counts as a letter is up to the matching engine's Unicode version: characters newer than the older of two engines
(`regex` here, Oniguruma inside `tokenizers`) may be cut differently by them.
"""

import regex

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"  # English contractions
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"  # a word with the one space or sign before it
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"  # signs, with the line ends after them
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"  # blanks, leaving the last one to the word that follows
    r"|\s+"
)

_PIECE = regex.compile(PATTERN)
_SAFE_CUT = regex.compile(r"\n(?=\S)")

_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = sorted(set(range(256)) - set(_VISIBLE))
BYTE_TO_CHAR = {byte: chr(byte) for byte in _VISIBLE} | {byte: chr(0x100 + i) for i, byte in enumerate(_HIDDEN)}
CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}


def pretokenize(text: str) -> list[str]:
    r"""The pieces of `text` in order; joined they are the text again.

    >>> pretokenize("It's 12345 lines:\n    pass")
    ['It', "'s", ' ', '123', '45', ' lines', ':\n', '   ', ' pass']
    """
    return _PIECE.findall(text)


def cut(text: str, size: int) -> list[str]:
    """Parts of at least `size` characters (the last may be shorter) whose pieces together are those of the whole text.

    A line end before a visible character always ends a piece, and the pattern never looks back, so cutting there is
    safe. A text without such a place stays in one part.
    """
    parts, start = [], 0
    while start < len(text):
        place = _SAFE_CUT.search(text, start + size - 1)
        end = place.end() if place else len(text)
        parts.append(text[start:end])
        start = end
    return parts


def replace_surrogates(text: str) -> str:
    r"""Lone surrogates, which are no characters, become U+FFFD; two that belong together become their character.

    The rule of the Web (WHATWG Infra, "convert to scalar value string"): a browser does this before it sends text.

    >>> replace_surrogates("a\udc80 \ud83d\ude00") == "a\ufffd \U0001f600"
    True
    """
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def to_printable(token: bytes) -> str:
    """Bytes as the string that stands for them in a vocabulary file."""
    return "".join(map(BYTE_TO_CHAR.__getitem__, token))


def from_printable(token: str) -> bytes:
    """The bytes that a vocabulary string stands for."""
    return bytes(map(CHAR_TO_BYTE.__getitem__, token))
