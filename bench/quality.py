"""What a quantised file and its kernels cost in quality: bits per byte of one text by every way to compute the model.

    python bench/quality.py [MODEL.gguf] [--text TEXT] [--bytes 100000] [--context 512] [--ways WAY …]

TEXT is a file of any kind of text, a glob, corpus:python or hf:owner/name. All ways read the same tokens of its first
bytes. "float32" is the file's weights as plain floats, through torch's products: what the others differ from it
by is the kernels' doing (int8 activations, mostly), not the file's.
"native" reads many tokens at once, as a prompt is read, "native, one by one" behind a cache, as an answer is written;
each takes kernels of its own. "pages DTYPE" reads as the engine does, in pieces, so that most tokens attend to keys and
values that lie in pages of that type. Every way runs in a process of its own, because the kernels are chosen once a
process.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from vesalius.core.hardware import hardware_line
from vesalius.data.document import Document
from vesalius.data.documents import read_documents
from vesalius.data.shard_writing import write_held_out
from vesalius.data.shards import TokenShards
from vesalius.evals.bits_per_byte import bits_per_byte
from vesalius.hub.unpacking import unpacked
from vesalius.infer.adapters import Adapters
from vesalius.infer.cache import cache_for
from vesalius.infer.capacity import pool_of
from vesalius.infer.language_model import LanguageModel
from vesalius.infer.options import CacheDtype, EngineOptions
from vesalius.infer.reader import Reader
from vesalius.models.transformer import Transformer

WAYS = ("float32", "torch", "native", "native, one by one")
PAGES = ("pages float32", "pages bfloat16", "pages int8")
PIECE = 64
"""Tokens that are read at once behind pages."""


class OneByOne(nn.Module):
    """The model, reading one token at a time behind its cache."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """tokens, positions (B, T) -> logits (B, T, V). Where positions begin anew, so does the cache."""
        return torch.stack([self._row(*row) for row in zip(tokens, positions, strict=True)])

    def _row(self, tokens: Tensor, positions: Tensor) -> Tensor:
        cache = cache_for(self.model.config, capacity=len(tokens))
        logits = []
        for token, position in zip(tokens, positions.tolist(), strict=True):
            if position == 0:
                cache.truncate(0)
            hidden = self.model.model(token.view(1, 1), cache.positions(1), cache)  # (1, 1, D)
            logits.append(self.model.logits(hidden[0]))
        return torch.cat(logits)  # (T, V)


class InPages(nn.Module):
    """The model, reading pieces of a text behind pages of one type, as the engine reads a prompt."""

    def __init__(self, model: Transformer, cache_dtype: CacheDtype) -> None:
        super().__init__()
        self.model = model
        options = EngineOptions(cache_dtype=cache_dtype, step_tokens=PIECE, prefix_caching=False)
        self.pool = pool_of(model.config, options, torch.float32, torch.device("cpu"))
        self._reader = Reader(model, self.pool, Adapters(model))

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """tokens, positions (B, T) -> logits (B, T, V). Where positions begin anew, so does the text."""
        return torch.stack([self._row(*row) for row in zip(tokens, positions, strict=True)])

    def _row(self, tokens: Tensor, positions: Tensor) -> Tensor:
        starts = sorted({0, *(positions == 0).nonzero().flatten().tolist(), len(tokens)})
        texts = [tokens[first:end].tolist() for first, end in pairwise(starts)]
        return torch.cat([self._text(text) for text in texts])  # (T, V)

    def _text(self, text: list[int]) -> Tensor:
        table = list(range(-(-len(text) // self.pool.size)))
        pieces = [(first, text[first : first + PIECE]) for first in range(0, len(text), PIECE)]
        hidden = [self._reader.read([piece], [first], [table], [None]) for first, piece in pieces]
        return self._reader.logits(torch.cat(hidden), [None] * len(text))


def measure(name: str, way: str, spec: str, limit: int, context: int) -> dict[str, float]:
    """Bits per byte and loss of one way, in this process."""
    lm = LanguageModel.load(name)
    model: nn.Module = lm.model
    if way == "float32":
        model = unpacked(lm.model, torch.float32)
    elif way == "native, one by one":
        model = OneByOne(lm.model)
    elif way in PAGES:
        model = InPages(lm.model, cast(CacheDtype, way.split()[1]))
    context = min(context, lm.config.max_position_embeddings)
    with tempfile.TemporaryDirectory() as scratch:
        write_held_out(beginning(read_documents([spec]), limit), lm.tokenizer, Path(scratch) / "shards")
        shards = TokenShards(Path(scratch) / "shards", "validation", lm.tokenizer)
        return bits_per_byte(model, shards, context=context, batch_rows=1)


def beginning(documents: Iterator[Document], limit: int) -> Iterator[Document]:
    """Documents until they have `limit` bytes; the last is cut between characters."""
    for document in documents:
        text = document.text.encode()[:limit].decode(errors="ignore")
        yield Document(text, document.name, document.split_key)
        limit -= len(document.text.encode())
        if limit <= 0:
            return


def measured_apart(way: str, arguments: list[str], threads: int) -> dict[str, float]:
    """`measure` in a process with the kernels of this way."""
    native = "off" if way in ("float32", "torch") else "on"
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "VESALIUS_NATIVE": native}
    command = [sys.executable, __file__, *arguments, "--way", way]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode or done.stderr:  # a native library that cannot be built is told on stderr
        sys.exit(f"{way}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--text", default="corpus:python")
    parser.add_argument("--bytes", type=int, default=100_000)
    parser.add_argument("--context", type=int, default=512, help="tokens of a window")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--ways", nargs="+", choices=WAYS + PAGES, default=WAYS + PAGES)
    parser.add_argument("--way", choices=WAYS + PAGES, help="measure this one here and print JSON")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.model, options.way, options.text, options.bytes, options.context)))
        return
    arguments = [options.model, "--text", options.text, "--bytes", str(options.bytes)]
    arguments += ["--context", str(options.context)]
    print(hardware_line())
    exact = None
    for way in options.ways:
        found = measured_apart(way, arguments, options.threads)
        perplexity = math.exp(found["loss"])
        if exact is None:
            exact = perplexity
            print(f"{found['measured_bytes']} bytes, {found['measured_tokens']} tokens of {options.text}")
        print(
            f"{way:20s} {found['bits_per_byte']:.5f} bits per byte, perplexity {perplexity:.4f}, "
            f"{perplexity / exact - 1:+.3%} of the first's",
            flush=True,
        )


if __name__ == "__main__":
    main()
