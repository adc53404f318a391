"""Adapters beside PEFT: what it writes opens here and what we write opens there, with the same logits and gradients."""

import peft
import pytest
import torch
from engine_models import SIZES
from gguf_models import TOKENIZER
from torch import nn
from transformers import AutoModelForCausalLM

from vesalius.adapt.ia3 import IA3Config, add_ia3
from vesalius.adapt.lora import LoraConfig, add_lora
from vesalius.adapt.prefix import PrefixConfig, add_prefix
from vesalius.adapt.prompt import PromptConfig, add_prompt
from vesalius.adapt.switch import holders
from vesalius.hub.adapters import load_adapter, save_adapter
from vesalius.hub.directory import open_model, save_model
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer

THEIRS = {
    "lora": lambda: peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"]),
    "rslora": lambda: peft.LoraConfig(r=4, use_rslora=True, target_modules="all-linear"),
    "dora": lambda: peft.LoraConfig(r=4, use_dora=True, target_modules="all-linear"),
    "ranks": lambda: peft.LoraConfig(
        r=4,
        target_modules=["q_proj", "v_proj"],
        rank_pattern={"layers.1.self_attn.q_proj": 2},
        alpha_pattern={"v_proj": 3},
    ),
    "ia3": lambda: peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=3),
    "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=3),
}
OURS = {
    "lora": lambda m: add_lora(m, LoraConfig(lora_r=4, lora_alpha=6, target_modules=("q_proj", "mlp.down_proj"))),
    "rslora": lambda m: add_lora(m, LoraConfig(lora_r=4, use_rslora=True)),
    "dora": lambda m: add_lora(m, LoraConfig(lora_r=4, use_dora=True)),
    "ranks": lambda m: add_lora(
        m, LoraConfig(lora_r=4, rank_pattern={"layers.1.*": 2, "up_proj": 3}, alpha_pattern={"v_proj": 3})
    ),
    "some layers": lambda m: add_lora(m, LoraConfig(lora_r=4, target_modules=("layers.1.mlp.*", "layers.0.*.q_proj"))),
    "ia3": lambda m: add_ia3(m, IA3Config()),
    "prompt": lambda m: add_prompt(m, PromptConfig(num_virtual_tokens=3)),
    "prefix": lambda m: add_prefix(m, PrefixConfig(num_virtual_tokens=3)),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The directory of a tiny Llama; biases of queries and values tell a layer's product from its output."""
    folder = tmp_path_factory.mktemp("base")
    sizes = SIZES | {"vocab_size": TOKENIZER.vocab_size, "initializer_range": 0.2, "attention_bias": True}
    model = Transformer(ModelConfig.from_dict(sizes | {"attention_output_bias": True}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    save_model(folder / "model", model, TOKENIZER)
    return folder / "model"


def stir(module: nn.Module) -> None:
    """Adapters start as no change at all: give them other numbers."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def batch() -> torch.Tensor:
    return torch.randint(TOKENIZER.vocab_size, (3, 11), generator=torch.Generator().manual_seed(5))


def peft_model(base, adapter=None, trainable=False):
    theirs = AutoModelForCausalLM.from_pretrained(base).eval()
    return theirs if adapter is None else peft.PeftModel.from_pretrained(theirs, adapter, is_trainable=trainable).eval()


def their_logits(model, tokens):
    return model(input_ids=tokens).logits[:, -tokens.shape[1] :]


@pytest.mark.parametrize("kind", THEIRS)
def test_what_peft_writes_gives_the_same_logits_here(kind, base, tmp_path):
    theirs, ours = both(kind, base, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(ours(batch()), their_logits(theirs, batch()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_gradients_of_virtual_tokens_are_those_of_peft(kind, base, tmp_path):
    theirs, ours = both(kind, base, tmp_path)
    gradients = []
    for logits, model in ((their_logits(theirs, batch()), theirs), (ours(batch()), ours)):
        logits.softmax(-1).square().sum().backward()
        gradients += [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert len(gradients) == 2
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-5)


def both(kind, base, folder):
    """A model that PEFT has adapted, and ours with what PEFT has written of it."""
    config = THEIRS[kind]()
    config.task_type = "CAUSAL_LM"
    theirs = peft.get_peft_model(peft_model(base), config).eval()
    stir(theirs)
    theirs.save_pretrained(folder)
    ours, _ = open_model(base)
    load_adapter(ours, folder)
    return theirs, ours


@pytest.mark.parametrize("kind", OURS)
def test_what_we_write_gives_the_same_logits_in_peft(kind, base, tmp_path):
    ours, _ = open_model(base)
    OURS[kind](ours)
    stir(ours)
    save_adapter(tmp_path / "adapter", ours, base=base)
    tokens = batch()
    with torch.no_grad():
        found = their_logits(peft_model(base, tmp_path / "adapter"), tokens)
        torch.testing.assert_close(found, ours(tokens), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3"])
def test_gradients_of_every_parameter_are_those_of_peft(kind, base, tmp_path):
    """By name: the file that we write is trained by PEFT."""
    ours, _ = open_model(base)
    OURS[kind](ours)
    stir(ours)
    save_adapter(tmp_path / "adapter", ours, base=base)
    theirs, tokens = peft_model(base, tmp_path / "adapter", trainable=True), batch()
    ours(tokens).softmax(-1).square().sum().backward()
    their_logits(theirs, tokens).softmax(-1).square().sum().backward()
    expected = {
        name.removeprefix("base_model.model.").replace(".default", ""): p.grad
        for name, p in theirs.named_parameters()
        if p.requires_grad
    }
    found = {
        f"{path}.{part}": parameter.grad
        for path, holder in holders(ours).items()
        for part, parameter in holder.adapters["default"].named_parameters()
    }
    assert len(found) == len(expected)
    for name, gradient in found.items():
        theirs_too = expected.get(f"{name}.weight", expected.get(name))
        torch.testing.assert_close(gradient, theirs_too.view_as(gradient), rtol=0, atol=1e-5)
