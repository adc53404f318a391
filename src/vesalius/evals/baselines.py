"""What a model's bits per byte stand beside: three predictors that cost seconds, and one that knows nothing.

Kneser-Ney counts the same tokens of the same training split. xz and gzip have just seen the training text (see
`foundations.compression`). The uniform model has only the vocabulary. All are measured on the same held-out documents.

Counting and compressing do not scale as training does: beyond a limit they learn from a random sample of the training
documents, and the result says from how much.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache

from vesalius.core.errors import UserError
from vesalius.data.shards import TokenShards
from vesalius.evals.document_sample import Documents, sample_documents
from vesalius.foundations.compression import gzip_bits_per_byte, xz_bits_per_byte
from vesalius.foundations.information import bits_per_byte
from vesalius.foundations.ngram import KneserNey
from vesalius.tokenizers.tokenizer import Tokenizer

KNESER_NEY_TOKENS = 8_000_000  # about 110 bytes of memory each
COMPRESSOR_BYTES = 16 * 2**20  # about a second each megabyte
SPAN = 1_000_000  # tokens that Kneser-Ney scores at once

TokenBytes = Callable[[int], bytes]


def baselines(
    train_shards: TokenShards, validation_shards: TokenShards, tokenizer: Tokenizer, *, max_tokens: int | None = None
) -> dict[str, float]:
    """Bits per byte of "kneser_ney", "xz", "gzip" and "uniform" on held-out documents.

    These are the documents that `evals.bits_per_byte` measures with the same `max_tokens`. "kneser_ney_tokens" and
    "compressor_bytes" say how much of the training split was learned from. UserError where there is no held-out text,
    or the shards were written with another tokenizer.
    """
    held_out = sample_documents(validation_shards, max_tokens)
    token_bytes = cache(tokenizer.token_bytes)
    _check(held_out, token_bytes)
    kneser_ney, kneser_ney_tokens = _kneser_ney(train_shards, held_out, tokenizer.vocab_size)
    training = _training_text(train_shards, token_bytes)
    predicted = held_out.n_tokens - len(held_out)
    return {
        "kneser_ney": kneser_ney,
        "xz": xz_bits_per_byte(_texts(held_out, token_bytes), training),
        "gzip": gzip_bits_per_byte(_texts(held_out, token_bytes), training),
        "uniform": bits_per_byte(predicted * math.log(tokenizer.vocab_size), held_out.n_bytes),
        "kneser_ney_tokens": kneser_ney_tokens,
        "compressor_bytes": len(training),
    }


def _kneser_ney(train_shards: TokenShards, held_out: Documents, vocab_size: int) -> tuple[float, int]:
    """Bits per byte of the held-out documents, and the number of tokens that were counted."""
    counted = sample_documents(train_shards, KNESER_NEY_TOKENS)
    tokens = counted.read(0, min(counted.n_tokens, KNESER_NEY_TOKENS))
    model = KneserNey.fit(tokens, vocab_size, boundary=counted.boundary)
    return bits_per_byte(_nats(model, held_out), held_out.n_bytes), len(tokens)


def _nats(model: KneserNey, documents: Documents) -> float:
    """What the documents cost. Each span begins early enough that its first token has its whole history."""
    reach = len(model.orders) - 1
    nats = 0.0
    for start in range(0, documents.n_tokens, SPAN):
        begin = max(start - reach, 0)
        tokens = documents.read(begin, min(start + SPAN, documents.n_tokens))
        nats -= float(model.log_probs(tokens)[start - begin :].sum())
    return nats


def _training_text(shards: TokenShards, token_bytes: TokenBytes) -> bytes:
    """Training documents one after another, at most COMPRESSOR_BYTES."""
    share = COMPRESSOR_BYTES / max(shards.n_bytes, 1)
    chosen = sample_documents(shards, max(math.floor(shards.n_tokens * share), 1) if share < 1 else None)
    return b"".join(_texts(chosen, token_bytes))[:COMPRESSOR_BYTES]


def _texts(documents: Documents, token_bytes: TokenBytes) -> Iterator[bytes]:
    """The UTF-8 text of each document: its tokens' bytes, without the boundary that opens it."""
    for i in range(len(documents)):
        yield b"".join(map(token_bytes, documents[i][1:].tolist()))


def _check(held_out: Documents, token_bytes: TokenBytes) -> None:
    if held_out.n_bytes == 0:
        raise UserError("there is no held-out text to measure on: give more text, or a larger validation_fraction")
    decoded = sum(map(len, _texts(held_out, token_bytes)))
    if decoded != held_out.n_bytes:
        raise UserError(
            f"the held-out tokens decode to {decoded} bytes, their index says {held_out.n_bytes}: "
            "open the shards with the tokenizer that wrote them"
        )
