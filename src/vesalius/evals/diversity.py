"""Mode collapse: a policy that found what is rewarded says it always. Three measures of how different texts are.

    distinct-n  different n-grams, as a share of all           Li et al. 2015, arXiv:1510.03055
    self-BLEU   how well each text is told by the others, 0 to 1: higher is more alike
                                                               Zhu et al. 2018, arXiv:1802.01886
    entropy     of the distribution of n-grams, in bits        Zhang et al. 2018, arXiv:1809.05972

Words are runs of letters and digits, or single signs, in lower case. All depend on how many texts there are and how
long they are: compare like with like, as before and after training on the same prompts.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_WORD = re.compile(r"\w+|[^\w\s]")
Grams = Counter[tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """The measures of some texts; self_bleu is None for fewer than two."""

    texts: int
    distinct_1: float
    distinct_2: float
    self_bleu: float | None
    entropy: float


def diversity(texts: Sequence[str]) -> Diversity:
    """All measures; the entropy is that of pairs of words."""
    words = [split_words(text) for text in texts]
    return Diversity(
        texts=len(texts),
        distinct_1=distinct(words, 1),
        distinct_2=distinct(words, 2),
        self_bleu=self_bleu(words) if len(words) > 1 else None,
        entropy=entropy(words, 2),
    )


def split_words(text: str) -> list[str]:
    """The words of a text.

    >>> split_words("It's 3, yes.")
    ['it', "'", 's', '3', ',', 'yes', '.']
    """
    return _WORD.findall(text.lower())


def distinct(words: Sequence[Sequence[str]], n: int) -> float:
    """Different n-grams of all texts together, as a share of all; 0 where there are none.

    >>> distinct([["a", "b", "a"]], 1)
    0.6666666666666666
    """
    counts = _all_grams(words, n)
    return len(counts) / counts.total() if counts else 0.0


def entropy(words: Sequence[Sequence[str]], n: int) -> float:
    """Bits of the distribution of the n-grams of all texts; 0 where there are none."""
    counts = _all_grams(words, n)
    total = counts.total()
    return sum(count / total * math.log2(total / count) for count in counts.values())


def self_bleu(words: Sequence[Sequence[str]], most: int = 4) -> float:
    """The mean over texts of the BLEU (Papineni et al. 2002) of each with all others as references, over n-grams up to
    `most`, where an n-gram that nobody else has counts as a tenth (Chen & Cherry 2014, method 1, with ε = 0.1).

    ValueError for fewer than two texts.
    """
    if len(words) < 2:
        raise ValueError(f"texts are compared with one another, so two are needed, got {len(words)}")
    grams = [[_grams(text, n) for text in words] for n in range(1, most + 1)]
    tops = [_two_highest(of_length) for of_length in grams]
    return sum(_bleu(place, words, grams, tops) for place in range(len(words))) / len(words)


def _bleu(
    place: int,
    words: Sequence[Sequence[str]],
    grams: list[list[Grams]],
    tops: list[dict[tuple[str, ...], tuple[int, int, int]]],
) -> float:
    text = words[place]
    if not text:
        return 0.0
    logs: list[float] = []
    for of_length, highest in zip(grams, tops, strict=True):
        own = of_length[place]
        matched = sum(min(count, _most_elsewhere(highest[gram], place)) for gram, count in own.items())
        if not logs and not matched:
            return 0.0  # no word in common
        logs.append(math.log((matched or 0.1) / max(own.total(), 1)))
    others = [len(other) for number, other in enumerate(words) if number != place]
    nearest = min(others, key=lambda length: (abs(length - len(text)), length))
    brevity = min(0.0, 1 - nearest / len(text))
    return math.exp(brevity + sum(logs) / len(logs))


def _two_highest(of_length: list[Grams]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """For each n-gram: its highest count in any text, which text that is, and its highest in the others. So the highest
    elsewhere is known without comparing each text with each.
    """
    found: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for place, grams in enumerate(of_length):
        for gram, count in grams.items():
            most, owner, second = found.get(gram, (0, -1, 0))
            found[gram] = (count, place, most) if count > most else (most, owner, max(second, count))
    return found


def _most_elsewhere(highest: tuple[int, int, int], place: int) -> int:
    most, owner, second = highest
    return second if owner == place else most


def _grams(words: Sequence[str], n: int) -> Grams:
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def _all_grams(words: Sequence[Sequence[str]], n: int) -> Grams:
    return sum((_grams(text, n) for text in words), Counter())
