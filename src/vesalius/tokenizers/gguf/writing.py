"""A tokenizer as the `tokenizer.*` keys of a GGUF file, so that llama.cpp and `tokenizer_from_gguf` give its ids.

What cannot be said is refused, with the reason. A byte-level vocabulary needs a name for the rule that cuts its text,
and llama.cpp has a name only for those it knows: ours is that of "dbrx", Llama 3's pattern with the merges always
applied ("llama-bpe" looks for the whole piece in the vocabulary first). A SentencePiece BPE needs a score for each
token that leads to the same merges: falling by the place of its first merge, and refused where the merges then differ
in more than the order of the ways to make one token.

Left out: WordPiece, and the other kinds that `reading.py` doesn't read either.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vesalius.core.errors import UserError
from vesalius.tokenizers.backends import BLANK, BYTE_TOKEN, blank_rule, parts, put_behind, state
from vesalius.tokenizers.gguf.keys import (
    BYTE,
    CONTROL,
    END_IDS,
    END_TOKENS,
    NAMED_IDS,
    NORMAL,
    PREFIX,
    TEMPLATE,
    TEMPLATE_NAMES,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)
from vesalius.tokenizers.gguf.pretokenizers import EACH_NUMBER, GPT2, NUMBERS, PUNCTUATION, name_of_rule
from vesalius.tokenizers.sentencepiece_like import OUTER_BLANKS, merges_of, sentencepiece_unigram
from vesalius.tokenizers.tokenizer import Tokenizer

UNREACHABLE_SCORE = -1e4
"""Of tokens that no merge makes: SentencePiece never asks for it."""

Rule = tuple[tuple[str, ...], bool, bool]


def gguf_metadata_of(tokenizer: Tokenizer, vocab_size: int | None = None) -> dict[str, Any]:
    """The keys that describe the tokenizer; keys as in the file, such as "tokenizer.ggml.tokens".

    `vocab_size` is that of the model, whose rows beyond the tokenizer get names that no text gives. UserError where the
    model is smaller than the tokenizer, or the format cannot say what the tokenizer does.
    """
    size = tokenizer.vocab_size if vocab_size is None else vocab_size
    if size < tokenizer.vocab_size:
        raise UserError(f"the tokenizer has {tokenizer.vocab_size} tokens and the model {size}: export it with its own")
    tokens, types = _tokens(tokenizer, size)
    model = json.loads(tokenizer.backend.to_str())["model"]
    kinds = {part["type"] for part in parts(state(tokenizer.backend.decoder))}
    if model["type"] == "BPE" and "ByteLevel" in kinds:
        special = _byte_level(tokenizer, model)
    elif model["type"] == "BPE" and model.get("byte_fallback"):
        special = _sentencepiece_bpe(tokenizer, model, tokens, types)
    elif model["type"] == "Unigram":
        special = _unigram(tokenizer, model, tokens)
    else:
        raise UserError(f"GGUF has no tokenizer of kind {model['type']}: only byte-level BPE and SentencePiece's")
    return {
        **special,
        PREFIX + "tokens": tokens,
        PREFIX + "token_type": types,
        **_ids(tokenizer),
        **_templates(tokenizer),
    }


def _tokens(tokenizer: Tokenizer, size: int) -> tuple[list[str], list[int]]:
    """Text and kind of every id below `size`."""
    texts = {number: text for text, number in tokenizer.backend.get_vocab(with_added_tokens=True).items()}
    unknown = tokenizer.unknown_id
    tokens, types = [], []
    for number in range(size):
        text = texts.get(number)
        added = tokenizer.added_tokens.get(number)
        tokens.append(f"[PAD{number}]" if text is None else text)
        if text is None:
            types.append(UNUSED)
        elif number == unknown and (added is None or added.special) and number not in tokenizer.eos_ids:
            types.append(UNKNOWN)
        elif added is not None:
            types.append(CONTROL if added.special else USER_DEFINED)
        else:
            types.append(BYTE if BYTE_TOKEN.fullmatch(text) else NORMAL)
    return tokens, types


def _byte_level(tokenizer: Tokenizer, model: Mapping[str, Any]) -> dict[str, Any]:
    backend = tokenizer.backend
    patterns = [_pattern(part) for part in parts(state(backend.pre_tokenizer))]
    normalizers = [part["type"] for part in parts(state(backend.normalizer))]
    if normalizers not in ([], ["NFC"]):
        raise UserError(f"GGUF cannot say what the tokenizer does to a text first ({', '.join(normalizers)})")
    rule = (tuple(filter(None, patterns)), bool(model.get("ignore_merges")), bool(normalizers))
    name = name_of_rule(rule) or _name_with_equal_ids(rule, tokenizer)
    if name is None:
        raise UserError(
            f"llama.cpp has no name for how this tokenizer cuts text ({' then '.join(rule[0])[:200]}): "
            "export it as a Hugging Face directory"
        )
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]]
    return {PREFIX + "model": "gpt2", PREFIX + "pre": name, PREFIX + "merges": merges}


def _pattern(part: Mapping[str, Any]) -> str | None:
    """The pattern that stands for a step of a pre-tokenizer; None where it cuts nothing. UserError for other steps."""
    kind = part["type"]
    if kind == "Split" and (part["behavior"], part["invert"]) in (("Isolated", False), ("Removed", True)):
        if "Regex" in part["pattern"]:
            return part["pattern"]["Regex"]
    elif kind == "Digits":
        return EACH_NUMBER if part["individual_digits"] else NUMBERS
    elif kind == "Punctuation" and part["behavior"] == "Contiguous":
        return PUNCTUATION
    elif kind == "ByteLevel" and not part["add_prefix_space"]:
        return GPT2 if part["use_regex"] else None
    raise UserError(f"llama.cpp has no name for how this tokenizer cuts text ({part}): export a Hugging Face directory")


def _name_with_equal_ids(rule: Rule, tokenizer: Tokenizer) -> str | None:
    """A name that differs in whether whole pieces are looked up first, where that makes no difference: where the merges
    make every token of itself."""
    patterns, ignore_merges, nfc = rule
    name = name_of_rule((patterns, not ignore_merges, nfc))
    if name is None or ignore_merges:
        return None
    model = tokenizer.backend.model
    own = tokenizer.backend.get_vocab(with_added_tokens=False)
    reached = all(
        [piece.id for piece in model.tokenize(text)] == [number]
        for text, number in own.items()
        if number not in tokenizer.added_tokens
    )
    return name if reached else None


def _sentencepiece_bpe(
    tokenizer: Tokenizer, model: Mapping[str, Any], tokens: Sequence[str], types: list[int]
) -> dict[str, Any]:
    """Keys of a SentencePiece BPE. Tokens that no merge makes become unused in `types`."""
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    places: dict[str, int] = {}
    for left, right in merges:
        places.setdefault(left + right, len(places))
    for number, token in enumerate(tokens):
        if types[number] == NORMAL and len(token) > 1 and token not in places:
            types[number] = UNUSED
    scores = [float(-places[token]) if token in places else UNREACHABLE_SCORE for token in tokens]
    hidden = {number for number, kind in enumerate(types) if kind not in (NORMAL, USER_DEFINED)}
    _check_merges(merges_of(tokens, scores, hidden), merges)
    space_prefix = _space_prefix(tokenizer)
    _check_steps(tokenizer)
    return {
        PREFIX + "model": "llama",
        PREFIX + "pre": "default",
        PREFIX + "scores": scores,
        PREFIX + "add_space_prefix": space_prefix,
    }


def _check_steps(tokenizer: Tokenizer) -> None:
    """UserError unless spaces become "▁", with or without one more at the beginning, and that is all."""
    steps = list(parts(state(tokenizer.backend.normalizer)))
    steps = steps[1:] if steps and steps[0]["type"] == "Prepend" else steps
    cuts = [step for step in parts(state(tokenizer.backend.pre_tokenizer)) if step.get("pattern") != {"String": " "}]
    if steps != [{"type": "Replace", "pattern": {"String": " "}, "content": BLANK}] or cuts:
        raise UserError(
            f"GGUF cannot say what this tokenizer does to a text ({[step['type'] for step in steps + cuts]}): "
            "export it as a Hugging Face directory"
        )


def _check_merges(told: list[tuple[str, str]], meant: Sequence[tuple[str, ...]]) -> None:
    """UserError unless both lists are the same but for the order of the ways to make one token."""
    made_told, made_meant = (["".join(merge) for merge in merges] for merges in (told, meant))
    if made_told != made_meant or set(told) != set(meant):
        raise UserError(
            "this tokenizer's merges are not those of a scored SentencePiece vocabulary, the only kind of BPE with "
            "byte fallback that GGUF has: export it as a Hugging Face directory"
        )


def _unigram(tokenizer: Tokenizer, model: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    meant = list(parts(state(tokenizer.backend.normalizer)))
    charsmap = base64.b64decode(
        next((step["precompiled_charsmap"] for step in meant if step["type"] == "Precompiled"), "")
    )
    single_spaces = any(step.get("pattern") == {"Regex": OUTER_BLANKS} for step in meant)
    space_prefix = _space_prefix(tokenizer)
    told = sentencepiece_unigram(
        [("", 0.0)],
        unknown_id=0,
        byte_fallback=False,
        space_prefix=space_prefix,
        charsmap=charsmap,
        single_spaces=single_spaces,
    )
    if list(parts(state(told.normalizer))) != meant or tokenizer.backend.pre_tokenizer is not None:
        raise UserError("GGUF cannot say what this Unigram tokenizer does to a text: export a Hugging Face directory")
    scores = [float(score) for _, score in model["vocab"]]
    keys: dict[str, Any] = {
        "model": "t5",
        "pre": "default",
        "scores": scores + [UNREACHABLE_SCORE] * (len(tokens) - len(scores)),
        "add_space_prefix": space_prefix,
        "remove_extra_whitespaces": single_spaces,
    }
    if charsmap:
        keys["precompiled_charsmap"] = np.frombuffer(charsmap, np.uint8)
    return {PREFIX + key: value for key, value in keys.items()}


def _space_prefix(tokenizer: Tokenizer) -> bool:
    """Whether a blank goes before a text, and again behind each added token, which is how llama.cpp has it."""
    rule = blank_rule(tokenizer.backend)
    if rule == "first":
        raise UserError(
            "this tokenizer puts a blank before a text but not behind its special tokens, GGUF cannot say this: "
            "export it as a Hugging Face directory"
        )
    return rule == "always"


def _ids(tokenizer: Tokenizer) -> dict[str, Any]:
    prefix, behind = tokenizer.prompt_prefix, put_behind(tokenizer.backend)
    if prefix not in ([], [tokenizer.bos_id]):
        raise UserError(f"GGUF can put nothing but the beginning token before a text, this tokenizer puts {prefix}")
    find: Callable[[str], int | None] = tokenizer.backend.token_to_id
    named = {
        key: find(tokenizer.named_tokens[name]) for name, key in NAMED_IDS.items() if name in tokenizer.named_tokens
    }
    if tokenizer.unknown_id is not None:
        named.setdefault("unknown_token_id", tokenizer.unknown_id)
    named |= _end_ids(tokenizer, named.get("eos_token_id"))
    ids = {PREFIX + key: number for key, number in named.items() if number is not None}
    return {**ids, PREFIX + "add_bos_token": bool(prefix), PREFIX + "add_eos_token": bool(behind)}


def _end_ids(tokenizer: Tokenizer, eos: int | None) -> dict[str, int]:
    """Keys of the tokens that end an answer besides `eos` and those that readers know by their text."""
    unknown = [
        token for token in tokenizer.eos_ids if token != eos and tokenizer.backend.id_to_token(token) not in END_TOKENS
    ]
    keys = [*END_IDS] if eos is not None else ["eos_token_id", *END_IDS]
    if len(unknown) > len(keys):
        raise UserError(f"GGUF has keys for {len(keys)} end tokens, this tokenizer has {unknown}: leave some out")
    return dict(zip(keys, unknown, strict=False))


def _templates(tokenizer: Tokenizer) -> dict[str, Any]:
    named = dict(tokenizer.chat_templates)
    default = {TEMPLATE: named.pop("default")} if "default" in named else {}
    others = {f"{TEMPLATE}.{name}": text for name, text in named.items()}
    return {**default, **({TEMPLATE_NAMES: list(named), **others} if named else {})}
