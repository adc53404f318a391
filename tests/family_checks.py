"""What every family must show, on a tiny random model that transformers made and saved: the checks of tests/models/
families, one function for each.

    pair = open_pair(tmp_path, transformers.LlamaConfig(**SIZES))
    check_logits(pair)
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor

from vesalius.hub.directory import open_model, save_model
from vesalius.hub.weights import read_weights
from vesalius.infer.cache import cache_for
from vesalius.models.families import FAMILIES, write_config
from vesalius.models.positions import reread_at
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe import BPE, SPECIAL_TOKENS
from vesalius.tokenizers.tokenizer import Tokenizer

SPECIAL = {text: i for i, text in enumerate(SPECIAL_TOKENS)}
TOKENIZER = Tokenizer.from_bpe(BPE({bytes([b]): b + len(SPECIAL) for b in range(256)}, [], SPECIAL))

VOCAB = TOKENIZER.vocab_size

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
"""What most published configs call the sizes; the ids of special tokens are unset because some defaults are larger than
the vocabulary."""


@dataclass(frozen=True)
class Pair:
    """The same model twice, and the directory where transformers saved it."""

    theirs: transformers.PreTrainedModel
    ours: Transformer
    directory: Path

    @property
    def model_type(self) -> str:
        return self.theirs.config.model_type


def open_pair(
    folder: Path, config: transformers.PreTrainedConfig, *, seed: int = 0, max_shard_size: str = "5GB"
) -> Pair:
    """A model of `config` with random weights, biases and norms included, saved by transformers and opened here."""
    torch.manual_seed(seed)
    config._attn_implementation = "eager"
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    randomise(theirs, seed)
    theirs.save_pretrained(folder / "theirs", max_shard_size=max_shard_size)
    TOKENIZER.save(folder / "theirs")
    return Pair(theirs, open_model(folder / "theirs")[0], folder / "theirs")


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Weights wide enough that every part shows in the logits; norms around what they are, biases around 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        biases = [(n, b) for n, b in model.named_buffers() if n.endswith("e_score_correction_bias")]
        for name, tensor in [*model.named_parameters(), *biases]:
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim > 1:
                tensor.copy_(0.2 * noise)
            else:
                tensor.add_(0.2 * noise)
            assert tensor.isfinite().all(), name


def sample_tokens(*shape: int, seed: int = 0) -> Tensor:
    """Random token ids."""
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))


class FamilyChecks:
    """The tests of every family: a test class inherits them, and its module has the fixture `pair`."""

    def test_logits(self, pair: Pair) -> None:
        check_logits(pair)

    def test_greedy_text(self, pair: Pair) -> None:
        check_greedy(pair)

    def test_the_cache_changes_nothing(self, pair: Pair) -> None:
        scaling = pair.ours.config.rope_scaling
        if scaling and scaling.kind in ("dynamic", "longrope"):  # beyond it a cache keeps keys as they were turned
            check_cache(pair, length=32, chunks=(9, 1, 22))
        else:
            check_cache(pair)

    def test_batches_and_packed_rows_change_nothing(self, pair: Pair) -> None:
        check_batch(pair)

    def test_what_we_save_opens_in_transformers(self, pair: Pair) -> None:
        check_saved(pair)

    def test_gradients(self, pair: Pair) -> None:
        check_gradients(pair)


def check_logits(pair: Pair, length: int = 48, tolerance: float = 1e-5) -> None:
    """Two rows of `length` tokens give transformers' logits."""
    tokens = sample_tokens(2, length)
    with torch.no_grad():
        theirs = pair.theirs(tokens, use_cache=False).logits
        close(pair.ours(tokens), theirs, tolerance)


def check_gradients(pair: Pair, length: int = 24, tolerance: float = 1e-4) -> None:
    """Every parameter's gradient, under its published name, is transformers'."""
    tokens = sample_tokens(2, length, seed=1)
    for logits in (pair.ours(tokens), pair.theirs(tokens, use_cache=False).logits):
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten()).backward()
    expected = published_gradients(pair)
    ours = {name: p.grad for name, p in pair.ours.named_parameters()}
    assert ours.keys() == expected.keys()
    for name, grad in expected.items():
        assert grad.abs().max() > 0, f"{name} has no part in the logits: the check would show nothing"
        torch.testing.assert_close(ours[name], grad, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def published_gradients(pair: Pair) -> dict[str, Tensor]:
    """Their gradients under our names. They travel as the weights of a copy that transformers saves, so their names are
    those of published files, and our weight map is checked on the way.
    """
    messenger, gradients = copy.deepcopy(pair.theirs), dict(pair.theirs.named_parameters())
    with torch.no_grad():
        for name, parameter in messenger.named_parameters():
            parameter.copy_(gradients[name].grad)
    folder = pair.directory.parent / "gradients"
    messenger.save_pretrained(folder)
    ours = dict(pair.ours.named_parameters())
    mapped = FAMILIES[pair.model_type].weights.to_ours(read_weights(folder), pair.ours.config)
    return {name: tensor for name, tensor in mapped.items() if name in ours}


def check_greedy(pair: Pair, count: int = 64, prompt: int = 9) -> None:
    """`count` greedy tokens equal those of transformers' generate."""
    tokens = sample_tokens(1, prompt, seed=2)
    with torch.no_grad():
        theirs = pair.theirs.generate(tokens, max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert greedy(pair.ours, tokens, count) == theirs[0, prompt:].tolist()


@torch.no_grad()
def greedy(model: Transformer, tokens: Tensor, count: int) -> list[int]:
    """The most likely token, `count` times, by the cache, which begins anew where the model's frequencies change."""
    cache, unread = cache_for(model.config), tokens
    for _ in range(count):
        if cache.length < reread_at(model.config) <= cache.length + unread.shape[1]:
            cache, unread = cache_for(model.config), tokens
        logits = model(unread, cache.positions(unread.shape[1]), cache)
        unread = logits[:, -1:].argmax(-1)
        tokens = torch.cat((tokens, unread), dim=1)
    return tokens[0, -count:].tolist()


def check_cache(
    pair: Pair, length: int = 48, chunks: Sequence[int] = (17, 1, 1, 12, 1, 16), tolerance: float = 1e-5
) -> None:
    """Reading by pieces into the cache gives the logits of reading at once."""
    tokens, cache = sample_tokens(2, length, seed=3), cache_for(pair.ours.config, batch_size=2, capacity=5)
    assert sum(chunks) == length
    with torch.no_grad():
        parts = [pair.ours(t, cache.positions(t.shape[1]), cache) for t in tokens.split(list(chunks), dim=1)]
        close(torch.cat(parts, dim=1), pair.ours(tokens), tolerance)


def check_batch(pair: Pair, lengths: Sequence[int] = (40, 7, 23), tolerance: float = 1e-5) -> None:
    """Texts of different lengths, padded on the right or packed into one row, give the logits of one by one."""
    texts = [sample_tokens(1, n, seed=4 + n) for n in lengths]
    padded = torch.cat([torch.nn.functional.pad(t, (0, max(lengths) - t.shape[1])) for t in texts])
    # Padding stands at position 0, as documents of one token: no text seems longer than it is.
    positions = torch.stack([torch.arange(max(lengths)) * (torch.arange(max(lengths)) < n) for n in lengths])
    packed = torch.cat([torch.arange(n) for n in lengths]).unsqueeze(0)
    with torch.no_grad():
        alone = [pair.ours(t)[0] for t in texts]
        together = pair.ours(padded, positions)
        for row, text in zip(together, alone, strict=True):
            close(row[: len(text)], text, tolerance)
        close(pair.ours(torch.cat(texts, dim=1), packed)[0], torch.cat(alone), tolerance)


def check_saved(pair: Pair, length: int = 48, tolerance: float = 1e-5) -> None:
    """What we save opens in transformers, as the class that it came from, with the same logits."""
    folder = pair.directory.parent / "ours"
    save_model(folder, pair.ours, TOKENIZER)
    assert write_config(pair.ours.config)["model_type"] != "vesalius"
    again = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    tokens = sample_tokens(2, length)
    with torch.no_grad():
        close(again(tokens, use_cache=False).logits, pair.ours(tokens), tolerance)


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Within the absolute tolerance everywhere, or relatively where numbers are above 1."""
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)
