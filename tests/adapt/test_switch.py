"""Adapters around a model: nothing changes until they learn, several live beside each other, each row may have its own,
and without them the model is its base bit for bit."""

import pytest
import torch
from engine_models import tiny_model
from torch import nn

from vesalius.adapt.lora import LoraConfig, add_lora
from vesalius.adapt.switch import adapted_layers, adapter_names, by_row, disabled, is_adapted, remove, switch
from vesalius.core.errors import UserError
from vesalius.kernels.linear import linear, linears

TOKENS = torch.arange(48).view(2, 24)
KINDS = {"lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}


def adapted(*names: str, kind: str = "lora", model: str = "grouped", **settings):
    """A tiny model with an adapter of each name that changes it."""
    made = tiny_model(model)
    for seed, name in enumerate(names):
        add_lora(made, LoraConfig(lora_r=4, **KINDS[kind], **settings), name, seed=seed)
        stir(made, name, seed)
    return made.eval()


def stir(model: nn.Module, name: str, seed: int) -> None:
    """Gives the adapter's parameters other numbers than those it starts with."""
    generator = torch.Generator().manual_seed(seed + 7)
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            for parameter in layer.adapters[name].parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


def logits(model: nn.Module, tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [2, 40])
def test_a_new_adapter_changes_nothing_bit_for_bit(kind, rows):
    """Also where queries, keys and values are one product, which they are for many rows."""
    model, tokens = tiny_model(), torch.randint(61, (rows, 24), generator=torch.Generator().manual_seed(0))
    before = logits(model, tokens)
    add_lora(model, LoraConfig(lora_r=4, **KINDS[kind]))
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["grouped", "latent", "learned"])
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


def test_only_the_adapter_learns():
    model = adapted("one")
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if ".adapters.one." in name
    }
    model(TOKENS).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_the_one_that_is_switched_to_is_used_and_trained():
    model = adapted("one", "two")
    assert adapter_names(model) == ("one", "two")
    two = logits(model)
    switch(model, "one")
    assert torch.equal(logits(model), logits(adapted("one")))
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


def test_a_removed_adapter_leaves_the_other_and_the_last_leaves_the_base():
    model = adapted("one", "two")
    remove(model, "two")
    assert adapter_names(model) == ("one",)
    assert torch.equal(logits(model), logits(tiny_model()))
    switch(model, "one")
    assert torch.equal(logits(model), logits(adapted("one")))
    remove(model, "one")
    assert not is_adapted(model)
    assert model.state_dict().keys() == tiny_model().state_dict().keys()


@pytest.mark.parametrize("kind", KINDS)
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
