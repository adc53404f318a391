"""Vocabularies that SentencePiece trained, as backends of the Rust library. Kudo & Richardson 2018, arXiv:1808.06226.

SentencePiece writes a space as "▁", puts one before the text, and works on the whole text without cutting it.

- Its BPE holds no merges but a score for each piece: of all neighbours that join to a piece the best-scored are joined
  first, the leftmost of equals. `merges_of` writes this as a list of merges, every way to make a piece by the score of
  the piece. Where two ways to make one piece overlap, which takes a repeated character, SentencePiece joins the
  leftmost and the merges the one with the longer left half, as transformers' conversion does.
- Unigram takes the most probable split (Kudo 2018, arXiv:1804.10959); the library has it as a model.

Control, unknown, byte and unused pieces are in the vocabulary and never come from text. A character that the
vocabulary lacks becomes the byte pieces of its UTF-8, or the unknown piece where there are none.

Left out: pieces marked unused that SentencePiece would make on the way and take apart again at the end.
"""

from collections.abc import Collection, Sequence

import tokenizers
from tokenizers import Regex, decoders, models, normalizers

from vesalius.core.errors import UserError
from vesalius.tokenizers.backends import BLANK, bpe_model


def sentencepiece_bpe(
    vocab: dict[str, int],
    merges: list[tuple[str, str]],
    *,
    unknown: str | None,
    space_prefix: bool,
    charsmap: bytes = b"",
    single_spaces: bool = False,
) -> tokenizers.Tokenizer:
    """A BPE of SentencePiece.

    unknown        what stands for what not even bytes can say
    charsmap       SentencePiece's compiled rules of normalisation, none where empty
    single_spaces  blanks at both ends go, and of several only one stays
    """
    backend = tokenizers.Tokenizer(bpe_model(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    backend.normalizer = _normalizer(charsmap, single_spaces, space_prefix)
    backend.decoder = _decoder(space_prefix)
    return backend


def sentencepiece_unigram(
    pieces: Sequence[tuple[str, float]],
    *,
    unknown_id: int | None,
    byte_fallback: bool,
    space_prefix: bool,
    charsmap: bytes = b"",
    single_spaces: bool = False,
) -> tokenizers.Tokenizer:
    """A Unigram model of SentencePiece: `pieces` are texts with their log-probabilities, by id. The rest as above."""
    try:
        model = models.Unigram(list(pieces), unk_id=unknown_id, byte_fallback=byte_fallback)
    except Exception as error:  # the library raises nothing more specific
        raise UserError(f"not a Unigram vocabulary ({error}): the file is damaged, get it again") from error
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = _normalizer(charsmap, single_spaces, space_prefix)
    backend.decoder = _decoder(space_prefix)
    return backend


def merges_of(tokens: Sequence[str], scores: Sequence[float], never_made: Collection[int]) -> list[tuple[str, str]]:
    """The merges that a scored vocabulary means, in the order in which they are to be joined.

    `never_made` are the ids of the tokens that no merge may make or use. The order is that of transformers'
    `convert_slow_tokenizer.generate_merges`: by falling score of what is made, then by falling length of the left half.

    >>> merges_of(["a", "b", "ab", "ba", "aba"], [-4.0, -3.0, -2.0, -1.0, -0.5], ())
    [('ab', 'a'), ('a', 'ba'), ('b', 'a'), ('a', 'b')]
    """
    known = {token for place, token in enumerate(tokens) if place not in never_made}
    found: list[tuple[float, int, int, str, str]] = []
    for place, token in enumerate(tokens):
        if len(token) < 2 or place in never_made:
            continue
        score = -scores[place]
        for cut in range(1, len(token)):
            if (left := token[:cut]) in known and (right := token[cut:]) in known:
                found.append((score, -cut, place, left, right))
    # of equal scores the longer left half first, then the longer right half, then the smaller id
    found.sort(key=lambda way: (way[0], way[1], -len(way[4]), way[2]))
    return [(left, right) for *_, left, right in found]


OUTER_BLANKS = r"\A +| +\z"


def _normalizer(charsmap: bytes, single_spaces: bool, space_prefix: bool) -> normalizers.Normalizer:
    rules: list[normalizers.Normalizer] = []
    try:
        rules += [normalizers.Precompiled(charsmap)] if charsmap else []
    except Exception as error:  # the library raises nothing more specific
        raise UserError(
            f"SentencePiece's rules of normalisation cannot be read ({error}): get the file again"
        ) from error
    if single_spaces:  # of blanks alone: the library's Strip takes all that Unicode calls white space
        rules += [normalizers.Replace(Regex(OUTER_BLANKS), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    rules += [normalizers.Prepend(BLANK)] if space_prefix else []
    return normalizers.Sequence([*rules, normalizers.Replace(" ", BLANK)])


def _decoder(space_prefix: bool) -> decoders.Decoder:
    first_blank = [decoders.Strip(" ", left=1)] if space_prefix else []
    return decoders.Sequence([decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), *first_blank])
