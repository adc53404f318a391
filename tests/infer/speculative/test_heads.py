"""Heads: the tree of the likeliest paths, files, and what an untrained head says."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from infer.speculative.written import text
from safetensors.torch import save_file

from vesalius.core.errors import UserError
from vesalius.infer.speculative.draft import EMPTY
from vesalius.infer.speculative.heads import FILE, WIDTH, Heads, MultiTokenHeads, likeliest_tree
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer

SIZES = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def model() -> Transformer:
    return Transformer(ModelConfig.from_dict(SIZES | {"initializer_range": 0.5})).eval()


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 40), st.integers(0, 1000))
def test_the_tree_has_the_likeliest_of_all_paths(depths, width, limit, seed):
    generator = torch.Generator().manual_seed(seed)
    logprobs = torch.randn(depths, width, generator=generator).log_softmax(-1).sort(descending=True).values.tolist()
    tokens = [[10 * depth + rank for rank in range(width)] for depth in range(depths)]
    tree = likeliest_tree(tokens, logprobs, limit)
    ranks = [path for d in range(1, depths + 1) for path in itertools.product(range(width), repeat=d)]
    joint = {path: sum(logprobs[d][rank] for d, rank in enumerate(path)) for path in ranks}
    best = sorted(joint.values(), reverse=True)[:limit]
    paths: list[tuple[int, ...]] = []
    for token, parent in zip(tree.tokens, tree.parents, strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token % 10))
        assert token // 10 == len(paths[-1]) - 1
    assert len(set(paths)) == len(paths)
    assert sorted((joint[path] for path in paths), reverse=True) == pytest.approx(best)


@torch.no_grad()
def test_an_untrained_head_says_what_the_model_says_for_the_next_token(model):
    hidden = torch.randn(3, 32)
    guesses = MultiTokenHeads(32, 2)(hidden)
    assert guesses.shape == (2, 3, 32)
    torch.testing.assert_close(model.logits(guesses), model.logits(hidden).expand(2, -1, -1))


def test_a_head_is_one_residual_block():
    heads, hidden = MultiTokenHeads(32, 1), torch.randn(5, 32)
    torch.nn.init.normal_(heads.layers[0].weight)
    z = hidden @ heads.layers[0].weight.T + heads.layers[0].bias
    torch.testing.assert_close(heads(hidden)[0], hidden + z / (1 + (-z).exp()))


def test_it_drafts_by_the_last_hidden_state(model):
    heads = MultiTokenHeads(32, 2)
    torch.nn.init.normal_(heads.layers[1].weight, std=0.5, generator=torch.Generator().manual_seed(0))
    drafter, sequence = Heads(model, heads), text([1], hidden=torch.randn(32))
    draft = drafter.propose(sequence, 12)
    assert len(draft) == 12
    assert drafter.needs_hidden
    with torch.no_grad():
        logprobs = model.logits(heads(sequence.hidden)).log_softmax(-1)
    likeliest = logprobs.argmax(-1).tolist()
    assert draft.tokens[0] == likeliest[0]
    assert draft.tokens[draft.parents.index(0)] == likeliest[1]
    for node, token in enumerate(draft.tokens):
        assert token in logprobs[draft.depths[node] - 1].topk(WIDTH).indices
    assert drafter.propose(text([1]), 12) is EMPTY


def test_they_are_saved_beside_a_model_and_opened_by_the_directory_or_the_file(tmp_path):
    heads = MultiTokenHeads(32, 3)
    torch.nn.init.normal_(heads.layers[2].weight)
    heads.save(tmp_path)
    for path in (tmp_path, tmp_path / FILE, str(tmp_path)):
        again = MultiTokenHeads.load(path, 32)
        assert len(again.layers) == 3
        assert all(torch.equal(a, b) for a, b in zip(heads.parameters(), again.parameters(), strict=True))


def test_files_that_hold_no_heads_of_this_model_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no heads at .*vesalius run heads"):
        MultiTokenHeads.load(tmp_path, 32)
    (tmp_path / FILE).write_bytes(b"no tensors")
    with pytest.raises(UserError, match="no safetensors file"):
        MultiTokenHeads.load(tmp_path, 32)
    MultiTokenHeads(32, 2).save(tmp_path)
    with pytest.raises(UserError, match="width 16"):
        MultiTokenHeads.load(tmp_path, 16)
    for weights in ({"a": torch.zeros(1), "b": torch.zeros(1)}, {}):
        save_file(weights, tmp_path / FILE)
        with pytest.raises(UserError, match="does not hold heads"):
            MultiTokenHeads.load(tmp_path, 32)


def test_the_tree_of_one_candidate_a_depth_is_a_chain():
    assert likeliest_tree([[4], [5], [6]], [[-1.0], [-math.log(2)], [0.0]], 9).is_chain
