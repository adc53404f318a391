"""A tiny run for tests of the whole: real text, every stage, a few steps each; and the command line, as a
process or called."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from vesalius.cli import main

PAGE = "\n".join(
    f"def function_{i}(path, mode={i}):\n    '''Return item {i} of the path.'''\n    return open(path, mode)[{i}]\n"
    for i in range(60)
)


def write_texts(folder: Path) -> None:
    """Forty documents, and conversations about them."""
    folder.mkdir(parents=True)
    for i in range(40):
        (folder / f"{i}.py").write_text(f"# module {i}\n{PAGE[i * 50 :]}")
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"What is {i}?"},
                {"role": "assistant", "content": f"It is item {i}."},
            ]
        }
        for i in range(60)
    ]
    (folder / "chat.jsonl").write_text("\n".join(json.dumps(line) for line in lines))


RECIPE = """
[data]
text = ["{folder}/*.py"]
conversations = ["{folder}/chat.jsonl"]
validation_fraction = 0.2

[tokenizer]
vocab_size = 300

[model]
preset = "nano"
config = {{ hidden_size = 32, num_hidden_layers = 2, num_attention_heads = 2, max_position_embeddings = 128 }}

[train]
steps = 12
batch_tokens = 256
context = 64
precision = "float32"
validate_every = 6
checkpoint_every = 0

[sft]
steps = 4
batch_tokens = 256
context = 64
precision = "float32"
checkpoint_every = 0

[eval]
choice_questions = 0
sample_tokens = 8
prompts = ["def "]
questions = ["What is 3?"]
"""


def write_recipe(folder: Path) -> Path:
    """Texts and a recipe that trains on them, in `folder`."""
    write_texts(folder / "texts")
    path = folder / "tiny.toml"
    path.write_text(RECIPE.format(folder=folder / "texts"))
    return path


def vesalius(
    *arguments: str | Path, cwd: Path | None = None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process of its own."""
    command = [sys.executable, "-m", "vesalius.cli", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return subprocess.run(
        command, cwd=cwd, input=stdin, env=environment, capture_output=True, text=True, timeout=500, check=False
    )


def called(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line without a process of its own, which takes seconds to import what this one has; it sees a
    terminal of 120 columns and no standard input."""
    command = ["vesalius", *map(str, arguments)]
    output, errors, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", command),
        mock.patch.dict(os.environ, {"COLUMNS": "120"}),
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(command, code, output.getvalue(), errors.getvalue())
