"""Weight maps: every rule comes back from where it went, views stay views, and what is not known stays as it is."""

import pytest
import torch

from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import Mixture
from vesalius.models.weight_map import (
    WeightMap,
    fused_columns,
    fused_heads,
    fused_rows,
    gate_up_rows,
    qkv_rows,
    rename,
    renames,
    stacked_experts,
    transposed,
)

CONFIG = ModelConfig(
    vocab_size=7,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=12,
    mixture=Mixture(num_experts=3, num_experts_per_tok=1, moe_intermediate_size=5),
)
QKV = ("l.{}.q", "l.{}.k", "l.{}.v")

RULES = {
    "rename": (rename("a", "b"), {"a": (3, 2)}, {"b": (3, 2)}),
    "transposed": (
        transposed("h.{}.w", "l.{}.w"), {"h.0.w": (3, 2), "h.1.w": (4, 5)}, {"l.0.w": (2, 3), "l.1.w": (5, 4)},
    ),
    "rows": (
        fused_rows("{}.qkv", QKV, qkv_rows), {"1.qkv": (16, 8)}, {"l.1.q": (8, 8), "l.1.k": (4, 8), "l.1.v": (4, 8)},
    ),
    "rows of a bias": (
        fused_rows("{}.gu", ("{}.g", "{}.u"), gate_up_rows), {"0.gu": (24,)}, {"0.g": (12,), "0.u": (12,)},
    ),
    "columns": (
        fused_columns("{}.qkv", QKV, qkv_rows), {"0.qkv": (8, 16)}, {"l.0.q": (8, 8), "l.0.k": (4, 8), "l.0.v": (4, 8)},
    ),
    "heads": (fused_heads("{}.qkv", QKV), {"0.qkv": (24, 8)}, {"l.0.q": (8, 8), "l.0.k": (8, 8), "l.0.v": (8, 8)}),
    "experts": (
        stacked_experts("{}.e.{expert}.w", "{}.experts"),
        {f"0.e.{i}.w": (5, 8) for i in range(3)},
        {"0.experts": (3, 5, 8)},
    ),
}  # fmt: skip


def tensors(shapes):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize(("rule", "theirs", "ours"), RULES.values(), ids=RULES.keys())
def test_what_a_rule_splits_it_joins_again(rule, theirs, ours):
    names, published = WeightMap(rules=(rule,), base=""), tensors(theirs)
    mapped = names.to_ours(published, CONFIG)
    assert {name: tuple(tensor.shape) for name, tensor in mapped.items()} == ours
    back = names.to_published(mapped, CONFIG)
    assert back.keys() == published.keys()
    assert all(torch.equal(back[name], published[name]) for name in published)


def test_fused_heads_stand_head_by_head():
    rows = torch.arange(24).view(24, 1)  # head 0: rows 0-1 are its query, 2-3 its key, 4-5 its value
    mapped = WeightMap(rules=(fused_heads("qkv", ("q", "k", "v")),), base="").to_ours({"qkv": rows}, CONFIG)
    assert mapped["q"].flatten().tolist() == [0, 1, 6, 7, 12, 13, 18, 19]
    assert mapped["v"].flatten().tolist() == [4, 5, 10, 11, 16, 17, 22, 23]


@pytest.mark.parametrize(
    "rule", [fused_rows("qkv", ("q", "k", "v"), qkv_rows), rename("qkv", "q"), transposed("qkv", "q")]
)
def test_mapped_weights_stay_where_they_are(rule):
    published = {"qkv": torch.zeros(16, 8)}
    mapped = WeightMap(rules=(rule,), base="").to_ours(published, CONFIG)
    storage = published["qkv"].untyped_storage().data_ptr()
    assert all(tensor.untyped_storage().data_ptr() == storage for tensor in mapped.values())


def test_a_rule_whose_tensors_are_not_all_there_leaves_them_alone():
    names = WeightMap(rules=(stacked_experts("e.{expert}", "experts"), *renames({"a": "b"})), base="")
    published = tensors({"e.0": (2,), "e.1": (2,), "a.weight": (2,), "other": (1,)})
    assert names.to_ours(published, CONFIG).keys() == {"e.0", "e.1", "b.weight", "other"}


def test_names_may_be_exchanged():
    names = WeightMap(rules=(rename("a", "b"), rename("b", "a")), base="")
    published = tensors({"a": (2,), "b": (3,)})
    assert names.to_ours(published, CONFIG)["a"] is published["b"]
    assert names.to_ours(published, CONFIG)["b"] is published["a"]


def test_a_checkpoint_of_the_body_alone_gets_the_base_in_front():
    names = WeightMap(rules=(rename("transformer.wte", "model.embed"),), base="transformer.")
    assert names.to_ours(tensors({"wte": (2,), "lm_head.weight": (2,)}), CONFIG).keys() == {
        "model.embed",
        "lm_head.weight",
    }
    assert names.to_ours(tensors({"transformer.wte": (2,)}), CONFIG).keys() == {"model.embed"}


def test_other_spellings_are_read_and_what_holds_nothing_is_ignored():
    names = WeightMap(aliases=((r"^text\.", ""),), ignored=(r"^vision\.",))
    given = tensors({"text.model.a": (1,), "vision.b": (1,), "text.model.l.0.rotary_emb.inv_freq": (1,)})
    assert names.to_ours(given, CONFIG).keys() == {"model.a"}


def test_errors_can_name_what_a_checkpoint_calls_a_tensor():
    names = WeightMap(rules=(fused_rows("{}.qkv", QKV, qkv_rows), stacked_experts("{}.e.{expert}.w", "{}.experts")))
    assert names.published_name("l.1.k", CONFIG) == "1.qkv"
    assert names.published_name("0.experts", CONFIG) == "0.e.0.w"
    assert names.published_name("model.norm.weight", CONFIG) == "model.norm.weight"


def test_one_published_tensor_is_cut_into_ours():
    names = WeightMap(rules=(fused_rows("{}.qkv", QKV, qkv_rows), rename("a", "b")))
    thin = torch.arange(32.0).view(16, 2)  # has the rows of the weight, as a change of low rank has
    parts = names.cut("1.qkv", thin, CONFIG)
    assert list(parts) == ["l.1.q", "l.1.k", "l.1.v"]
    assert torch.equal(torch.cat(list(parts.values())), thin)
    assert names.cut("c", thin, CONFIG) == {}
