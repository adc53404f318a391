r"""How text is cut before byte-pair merging, by the names that GGUF files give to it (`tokenizer.ggml.pre`).

A GGUF file of a byte-level vocabulary holds tokens and merges, but only a name for the rule that cuts text into
pieces. What each name means is fixed by llama.cpp (`src/llama-vocab.cpp`, `llm_tokenizer_bpe` and
`llama_vocab::impl::load`). Patterns apply one after the other: each cuts the pieces of the one before at its matches,
and both the matches and what stands between them are pieces.

Where llama.cpp rewrites a pattern for its own matching engine, the one of the models' own tokenizer.json stands here:
it is what they were trained with. So does the normalisation to NFC of Qwen, Cohere and GPT-NeoX, which llama.cpp leaves
out; texts that are in NFC already, nearly all, get the same ids from both.

Left out: names whose rule is a program in llama.cpp and no pattern (kimi-k2, afmoe, hybriddna), those that look ahead
over what other steps cut (superbpe, tiny_aya, youtu), and vocabularies that are not byte-level in spite of their merges
(gemma4, sarvam-moe, whitespace).
"""

from dataclasses import dataclass

from vesalius.core.errors import UserError, nearest
from vesalius.tokenizers.pretokenize import PATTERN as LLAMA3


@dataclass(frozen=True, kw_only=True)
class PreTokenizer:
    """What a name stands for.

    patterns        in the order in which they cut
    ignore_merges   a piece that is a token is that token, whatever the merges would make of it
    nfc             text is brought to Unicode's composed form first
    add_bos         a text starts with the beginning token where the file doesn't say
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    nfc: bool = False
    add_bos: bool = False

    @property
    def rule(self) -> tuple[tuple[str, ...], bool, bool]:
        """All that decides about ids."""
        return self.patterns, self.ignore_merges, self.nfc


def pretokenizer_named(name: str) -> PreTokenizer:
    """The rule of a `tokenizer.ggml.pre`. UserError with the nearest name where there is none."""
    if name not in PRETOKENIZERS:
        raise UserError(f"unknown pre-tokenizer {name!r} (tokenizer.ggml.pre): {nearest(name, PRETOKENIZERS)}")
    return PRETOKENIZERS[name]


def name_of_rule(rule: tuple[tuple[str, ...], bool, bool]) -> str | None:
    """The first name that stands for exactly this rule (`PreTokenizer.rule`); None where llama.cpp has no name for
    it."""
    return next((name for name, known in PRETOKENIZERS.items() if known.rule == rule), None)


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
EACH_NUMBER = r"\p{N}"
NUMBERS = r"\p{N}+"
PUNCTUATION = r"[\p{P}\$\+<=>\^~\|`]+"
_DEFAULT_PUNCTUATION = r"[\p{P}\$\+<=>\^~\|]+"  # no backtick

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_LINES = r"\s*[\r\n]+"
_BLANKS = r"\s+(?!\S)|\s+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_LINES_APART = r"[^\n]+|[\n]+"
_THREE_DIGITS = "[0-9][0-9][0-9]"

_QWEN2 = f"{_CONTRACTIONS}|{_WORD}|{EACH_NUMBER}|{_SIGNS}|{_LINES}|{_BLANKS}"
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|{EACH_NUMBER}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_LINES}|{_BLANKS}"
)
_SEED_CODER = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_LINES}|{_BLANKS}"
_BAILING = (
    rf"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{{L}}\p{{N}}]?+\p{{L}}+|{EACH_NUMBER}"
    rf"| ?[^\s\p{{L}}\p{{N}}]++[\r\n]*|\s*[\r\n]|{_BLANKS}"
)
_EXAONE_MOE = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|{EACH_NUMBER}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|\s*[\r\n]|{_BLANKS}"
)
_HALVING_BLANKS = "|".join(rf"\s{{{2**power}}}(?!\S)" for power in range(9, 1, -1)) + r"|\s{1,2}(?!\S)|\s{1}"
_JAIS2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|{_LINES}|{_HALVING_BLANKS}"

# A word of o200k: capitals first and then small letters, so that "HTTPServer" and "camelCase" are cut at the hump.
_CAPITALS, _SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_HUMPS = rf"{_BEFORE}{_CAPITALS}*{_SMALL}+{{end}}|{_BEFORE}{_CAPITALS}+{_SMALL}*{{end}}"
_SIGNS_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"


def _humps(number: str, end: str) -> str:
    words = _HUMPS.replace("{end}", end)
    return rf"{words}|{number}|{_SIGNS_SLASH}|{_LINES}|{_BLANKS}"


_GPT4O = _humps(r"\p{N}{1,3}", f"{_CONTRACTIONS}?")
_TEKKEN = _humps(EACH_NUMBER, "")

_HAN_KANA = "[一-龥\u3040-ゟ゠-ヿ]+"
_DEEPSEEK_HAN = "[一-龥ࠀ-一가-\ud7ff]+"
_DEEPSEEK_WORDS = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
_DEEPSEEK_LETTERS = (  # cased letters of one Unicode version, as the model's tokenizer.json lists them
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_DEEPSEEK_LLM = (
    "[\r\n]",
    rf"\s?[{_DEEPSEEK_LETTERS}]+",
    r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
    r"\s+$",
    _DEEPSEEK_HAN,
    NUMBERS,
)
_DEEPSEEK_CODER = ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_HAN, EACH_NUMBER)
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_MINICPM5 = (r"\p{N}{1,3}", f"{_CONTRACTIONS}|{_WORD}|{NUMBERS}|{_SIGNS}|{_LINES}|{_BLANKS}")

_LLAMA_BPE = PreTokenizer(patterns=(LLAMA3,), ignore_merges=True, add_bos=True)
_LLAMA3_MERGING = PreTokenizer(patterns=(LLAMA3,))
_GPT2_ONLY = PreTokenizer(patterns=(GPT2,))
_DIGITS_THEN_GPT2 = PreTokenizer(patterns=(EACH_NUMBER, GPT2))
_NEOX = PreTokenizer(patterns=(GPT2,), nfc=True)
_QWEN2_PLAIN = PreTokenizer(patterns=(_QWEN2,))
_O200K = PreTokenizer(patterns=(_GPT4O,))
_DEEPSEEK_V3 = PreTokenizer(patterns=(r"\p{N}{1,3}", _HAN_KANA, _DEEPSEEK_WORDS))

PRETOKENIZERS: dict[str, PreTokenizer] = {
    "default": PreTokenizer(patterns=(_DEFAULT_PUNCTUATION, GPT2, NUMBERS, _THREE_DIGITS)),
    "gpt-2": _GPT2_ONLY,
    "phi-2": _GPT2_ONLY,
    "gigachat": _GPT2_ONLY,
    "a.x-4.0": _GPT2_ONLY,
    "mellum": _GPT2_ONLY,
    "jais": _GPT2_ONLY,
    "trillion": _GPT2_ONLY,
    "granite-docling": _GPT2_ONLY,
    "exaone4": _GPT2_ONLY,
    "roberta-bpe": _GPT2_ONLY,
    "mpt": _NEOX,
    "olmo": _NEOX,
    "smollm": _DIGITS_THEN_GPT2,
    "starcoder": _DIGITS_THEN_GPT2,
    "refact": _DIGITS_THEN_GPT2,
    "codeshell": _DIGITS_THEN_GPT2,
    "exaone": _DIGITS_THEN_GPT2,
    "minerva-7b": _DIGITS_THEN_GPT2,
    "mellum2": _DIGITS_THEN_GPT2,
    "command-r": PreTokenizer(patterns=(EACH_NUMBER, GPT2), nfc=True),
    "falcon": PreTokenizer(patterns=(PUNCTUATION, GPT2, _THREE_DIGITS)),
    "llama-bpe": _LLAMA_BPE,
    "llama3": _LLAMA_BPE,
    "llama-v3": _LLAMA_BPE,
    "falcon3": _LLAMA_BPE,
    "falcon-h1": _LLAMA_BPE,
    "pixtral": _LLAMA_BPE,
    "midm-2.0": _LLAMA_BPE,
    "lfm2": _LLAMA_BPE,
    "dbrx": _LLAMA3_MERGING,
    "smaug-bpe": _LLAMA3_MERGING,
    "glm4": _LLAMA3_MERGING,
    "chatglm-bpe": _LLAMA3_MERGING,
    "qwen2": PreTokenizer(patterns=(_QWEN2,), nfc=True),
    "stablelm2": _QWEN2_PLAIN,
    "deepseek-r1-qwen": _QWEN2_PLAIN,
    "megrez": _QWEN2_PLAIN,
    "hunyuan": _QWEN2_PLAIN,
    "solar-open": _QWEN2_PLAIN,
    "grok-2": _QWEN2_PLAIN,
    "qwen35": PreTokenizer(patterns=(_QWEN35,), nfc=True),
    "laguna": PreTokenizer(patterns=(_LINES_APART, _QWEN2)),
    "seed-coder": PreTokenizer(patterns=(_SEED_CODER,)),
    "bailingmoe": PreTokenizer(patterns=(_BAILING,)),
    "bailingmoe2": PreTokenizer(patterns=(_BAILING,)),
    "llada-moe": PreTokenizer(patterns=(_BAILING,)),
    "exaone-moe": PreTokenizer(patterns=(_EXAONE_MOE,)),
    "jais-2": PreTokenizer(patterns=(_JAIS2,)),
    "minicpm5": PreTokenizer(patterns=_MINICPM5, ignore_merges=True),
    "gpt-4o": _O200K,
    "llama4": _O200K,
    "kanana2": _O200K,
    "minimax-m2": _O200K,
    "tekken": PreTokenizer(patterns=(_TEKKEN,), ignore_merges=True, add_bos=True),
    "deepseek-llm": PreTokenizer(patterns=_DEEPSEEK_LLM),
    "deepseek-coder": PreTokenizer(patterns=_DEEPSEEK_CODER),
    "deepseek-v3": _DEEPSEEK_V3,
    "hunyuan-dense": _DEEPSEEK_V3,
    "joyai-llm": _DEEPSEEK_V3,
    "bloom": PreTokenizer(patterns=(_BLOOM,)),
    "poro-chat": PreTokenizer(patterns=(_BLOOM,)),
    "gpt3-finnish": PreTokenizer(patterns=(_BLOOM,)),
    "viking": PreTokenizer(patterns=(_BLOOM, EACH_NUMBER)),
}
