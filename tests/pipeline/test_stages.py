"""What a training run may start from."""

from pathlib import Path

import pytest
import torch
from gguf_models import TOKENIZER, model_named

from vesalius.core.errors import UserError
from vesalius.hub import open as hub_open
from vesalius.hub.directory import save_model
from vesalius.hub.gguf.export import export_gguf
from vesalius.pipeline.stages import open_start


def test_a_directory_or_a_name_of_one_is_a_model_to_start_from(tmp_path, monkeypatch):
    model = model_named("llama")
    save_model(tmp_path / "fetched", model, TOKENIZER)
    direct, _ = open_start(str(tmp_path / "fetched"))
    monkeypatch.setattr(hub_open, "locate", lambda name: tmp_path / Path(name).name)
    named, tokenizer = open_start("owner/fetched")
    for opened in (direct, named):
        for ours, theirs in zip(opened.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert tokenizer.encode("ab") == TOKENIZER.encode("ab")


def test_a_gguf_file_is_refused_with_the_way_to_train_it(tmp_path):
    export_gguf(tmp_path / "tiny.gguf", model_named("llama"), TOKENIZER)
    with pytest.raises(UserError, match=r"quantised weights cannot be trained: .*vesalius export .*--dtype f32"):
        open_start(str(tmp_path / "tiny.gguf"))
