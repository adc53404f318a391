"""Adapters around a model: nothing changes until they learn, several live beside each other, each row may have its own,
and without them the model is its base bit for bit."""

import pytest
import torch
from adapting import AROUND_LINEARS, KINDS, TOKENS, adapted, logits
from engine_models import tiny_model

from vesalius.adapt.lora import LoraConfig, add_lora
from vesalius.adapt.switch import adapter_names, by_row, disabled, is_adapted, remove, switch
from vesalius.core.errors import UserError
from vesalius.infer.engine import Engine
from vesalius.infer.params import SamplingParams
from vesalius.kernels.linear import linear, linears


@pytest.mark.parametrize("kind", AROUND_LINEARS)
@pytest.mark.parametrize("rows", [2, 40])
def test_a_new_adapter_changes_nothing_bit_for_bit(kind, rows):
    """Also where queries, keys and values are one product, which they are for many rows."""
    model, tokens = tiny_model(), torch.randint(61, (rows, 24), generator=torch.Generator().manual_seed(0))
    before = logits(model, tokens)
    KINDS[kind](model, "new", 0)
    assert torch.equal(logits(model, tokens), before)


def test_queries_keys_and_values_of_adapted_layers_are_still_one_product():
    model, rows = adapted("one"), torch.randn(40 * 24, 32, generator=torch.Generator().manual_seed(0))
    attention = model.model.layers[0].self_attn
    layers = (attention.q_proj, attention.k_proj, attention.v_proj)
    joined = linears(rows, layers)
    product = linear(rows, torch.cat([layer.base.weight for layer in layers])).split([32, 16, 16], dim=-1)
    for ours, layer, y in zip(joined, layers, product, strict=True):
        assert torch.equal(ours, layer.adjust(rows, y))
        torch.testing.assert_close(ours, layer(rows), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "model"),
    [*((kind, "grouped") for kind in KINDS), ("lora", "latent"), ("prompt", "latent"), ("dora", "sinks")],
)
def test_disabled_is_the_base_bit_for_bit_and_only_within(kind, model):
    changed, before = adapted("one", kind=kind, model=model), logits(tiny_model(model))
    after = logits(changed)
    with disabled(changed):
        assert torch.equal(logits(changed), before)
        assert not is_adapted(changed)
    assert torch.equal(logits(changed), after)
    assert not torch.equal(after, before)


def test_disabled_ends_where_something_fails():
    model = adapted("one")
    with pytest.raises(KeyError), disabled(model):
        raise KeyError
    assert is_adapted(model)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_adapter_learns(kind):
    model = adapted("one", kind=kind)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if "adapters.one." in name
    }
    model(TOKENS).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", KINDS)
def test_the_one_that_is_switched_to_is_used_and_trained(kind):
    model = adapted("one", "two", kind=kind)
    assert adapter_names(model) == ("one", "two")
    two = logits(model)
    switch(model, "one")
    assert torch.equal(logits(model), logits(adapted("one", kind=kind)))
    assert all((".one." in name) == p.requires_grad for name, p in model.named_parameters())
    switch(model, "two")
    assert torch.equal(logits(model), two)
    switch(model)
    assert torch.equal(logits(model), logits(tiny_model()))


def test_several_in_use_are_summed():
    model = adapted("one", "two")
    switch(model, "one", "two")
    layer = model.model.layers[1].mlp.down_proj
    x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0))
    changes = [layer.adapters[name].product(x) for name in ("one", "two")]
    torch.testing.assert_close(layer(x), layer.base(x) + changes[0] + changes[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_removed_adapter_leaves_the_other_and_the_last_leaves_the_base(kind):
    model = adapted("one", "two", kind=kind)
    remove(model, "two")
    assert adapter_names(model) == ("one",)
    assert torch.equal(logits(model), logits(tiny_model()))
    switch(model, "one")
    assert torch.equal(logits(model), logits(adapted("one", kind=kind)))
    remove(model, "one")
    assert not is_adapted(model)
    assert model.state_dict().keys() == tiny_model().state_dict().keys()


@pytest.mark.parametrize("kind", AROUND_LINEARS)
def test_each_row_of_a_batch_may_use_its_own_adapter(kind):
    """float32, tolerance 1e-5: the sums are the same, blocked differently."""
    model = adapted("one", "two", kind=kind)
    tokens = torch.arange(40).view(4, 10)
    wanted = ["two", None, "one", "two"]
    with by_row(model, [name for name in wanted for _ in range(10)]):
        together = logits(model, tokens)
    for row, name in enumerate(wanted):
        switch(model, *[name] if name else [])
        torch.testing.assert_close(together[row], logits(model, tokens[row : row + 1])[0], rtol=0, atol=1e-5)


def test_each_token_of_a_row_may_use_its_own_adapter():
    """As in an engine's step, where one row holds tokens of several texts."""
    model = adapted("one", "two")
    layer = model.model.layers[0].mlp.up_proj
    x = torch.randn(1, 5, layer.in_features, generator=torch.Generator().manual_seed(0))
    names = ["one", "one", None, "two", "one"]
    with by_row(model, names):
        together = layer(x)
    for place, name in enumerate(names):
        switch(model, *[name] if name else [])
        torch.testing.assert_close(together[:, place], layer(x[:, place]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", ["grouped", "latent"])
def test_an_engine_writes_what_the_whole_model_says(model):
    """Latent attention reads the weight of a layer over a cache: that of the adapted one has the adapter in it."""
    made = adapted("one", model=model)
    engine = Engine(made, [])
    ids = engine.run(engine.add([5, 9, 17], SamplingParams(max_tokens=8))[0]).ids
    assert logits(made, torch.tensor([[5, 9, 17, *ids]]))[0, 2:-1].argmax(-1).tolist() == ids


def test_rows_that_were_not_chosen_for_are_refused():
    model = adapted("one")
    with by_row(model, ["one"] * 5), pytest.raises(ValueError, match="chosen for 5 token rows, got 48"):
        logits(model)
    logits(model)


def test_what_does_not_fit_is_one_line():
    model = adapted("one")
    with pytest.raises(UserError, match="has an adapter 'one' already"):
        add_lora(model, LoraConfig(), "one")
    with pytest.raises(UserError, match="no adapter 'oen', did you mean 'one'"):
        switch(model, "oen")
    with pytest.raises(UserError, match="no adapter 'two', known: one"):
        remove(model, "two")
    with pytest.raises(UserError, match="no adapter 'two'"), by_row(model, ["two"]):
        pass
    for name in ("a.b", "", "train"):
        with pytest.raises(UserError, match="cannot be called"):
            add_lora(model, LoraConfig(), name)
