"""Tokenizer: training and encoding, ours beside Hugging Face `tokenizers`, on `corpus:python`, from one process.

    python bench/tokenizer.py [--vocab-size 8192] [--repeats 5]

The limit of training is what any trainer in Python must do at least: find the pieces of the text once, here by the
regular expression alone, on one core. The limit of encoding is the library itself: ours goes through it.
"""

import argparse
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import tokenizers
from tokenizers import Regex, models, pre_tokenizers, trainers

from vesalius.data.python_corpus import python_documents
from vesalius.tokenizers.backends import BLANK
from vesalius.tokenizers.bpe import BPE, SPECIAL_TOKENS
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.pretokenize import PATTERN, pretokenize, to_printable
from vesalius.tokenizers.tokenizer import Tokenizer
from vesalius.tokenizers.unigram.training import learn_pieces
from vesalius.tokenizers.unigram.word_lattices import WordLattices
from vesalius.tokenizers.word_counts import count_words


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    from vesalius.core.hardware import hardware_line  # torch: a worker process that imports this script can do without

    documents = [document.text for document in python_documents()]
    megabytes = sum(len(text.encode()) for text in documents) / 1e6
    print(hardware_line(), f"load {os.getloadavg()[0]:.1f}")
    print(f"corpus:python, {len(documents)} documents, {megabytes:.1f} MB; {options.vocab_size} tokens")
    print(f"medians of {options.repeats}, ours and the peer by turns\n")

    bpe, peer = train(documents, options.vocab_size, options.repeats)
    train_pieces(documents, options.vocab_size, options.repeats)
    encode(documents, megabytes, bpe, peer, options.repeats)


def train(documents: list[str], vocab_size: int, repeats: int) -> tuple[BPE, tokenizers.Tokenizer]:
    """Prints the seconds to learn the vocabulary, and whether the merges are the same; gives both."""
    results: dict[str, Any] = {}
    times = take_turns(
        {
            "ours": lambda: results.update(ours=train_bpe(documents, vocab_size)),
            "peer": lambda: results.update(peer=train_peer(documents, vocab_size)),
            "limit": lambda: [pretokenize(text) for text in documents],
        },
        repeats,
    )
    ours = [(to_printable(left), to_printable(right)) for left, right in results["ours"].merges]
    peer = [tuple(merge) for merge in json.loads(results["peer"].to_str())["model"]["merges"]]
    row("training, s", times, lambda seconds: f"{seconds:.2f}")
    print(f"    ours / peer: {times['ours'] / times['peer']:.2f}; merges equal: {ours == peer} ({len(ours)})")
    return results["ours"], results["peer"]


def train_peer(documents: list[str], vocab_size: int) -> tokenizers.Tokenizer:
    """The same settings in Hugging Face `tokenizers`."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def train_pieces(documents: list[str], vocab_size: int, repeats: int) -> None:
    """Prints the seconds to learn a Unigram vocabulary of so many pieces, and what the text costs under each."""
    results: dict[str, list[tuple[str, float]]] = {}
    times = take_turns(
        {
            "ours": lambda: results.update(ours=learn_pieces(written_words(documents), vocab_size)),
            "peer": lambda: results.update(peer=peer_pieces(documents, vocab_size)),
        },
        repeats,
    )
    row("training Unigram, s", times, lambda seconds: f"{seconds:.2f}")
    words = written_words(documents)
    ours, peer = (nats(words, results[name]) for name in ("ours", "peer"))
    print(f"    ours / peer: {times['ours'] / times['peer']:.2f}; nats of the text, ours / peer: {ours / peer:.3f}")


def written_words(documents: list[str]) -> Counter[str]:
    """Words with their counts, as a Unigram vocabulary writes them."""
    words: Counter[str] = Counter()
    for word, count in count_words(documents).items():
        words[word.replace(" ", BLANK)] += count
    return words


def peer_pieces(documents: list[str], vocab_size: int) -> list[tuple[str, float]]:
    """The same settings in Hugging Face `tokenizers`."""
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.Metaspace(prepend_scheme="never", split=False)]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size + 1, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    return [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"] if piece != "<unk>"]


def nats(words: Counter[str], pieces: list[tuple[str, float]]) -> float:
    """What all words cost under these pieces, whose probabilities are made to sum to one."""
    scores = np.array([score for _, score in pieces])
    scores -= np.log(np.exp(scores).sum())
    lattices = WordLattices.of(list(words), [piece for piece, _ in pieces])
    return -lattices.expected(scores, np.fromiter(words.values(), np.int64, len(words)))[1]


def encode(documents: list[str], megabytes: float, bpe: BPE, peer: tokenizers.Tokenizer, repeats: int) -> None:
    """Prints megabytes a second through `Tokenizer`, the library alone, and the by-hand encoder."""
    ours = Tokenizer.from_bpe(bpe)
    batches = take_turns(
        {"ours": lambda: ours.encode_batch(documents), "peer": lambda: peer.encode_batch(documents)}, repeats
    )
    row("encoding in a batch, MB/s", batches, lambda seconds: f"{megabytes / seconds:.2f}")
    single = take_turns(
        {
            "ours": lambda: [ours.encode(text) for text in documents],
            "peer": lambda: [peer.encode(text) for text in documents],
            "by hand": lambda: [bpe.encode(text) for text in documents],
        },
        repeats,
    )
    row("encoding one by one, MB/s", single, lambda seconds: f"{megabytes / seconds:.2f}")


def take_turns(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each call; a slow minute of the machine meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def row(title: str, seconds: dict[str, float], text: Callable[[float], str]) -> None:
    """One line of the table."""
    print(f"{title:<28}" + "".join(f"{name} {text(value):<10}" for name, value in seconds.items()))


if __name__ == "__main__":
    main()
