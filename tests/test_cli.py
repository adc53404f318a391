"""The verbs as a user types them: what they print, what they leave behind, and one clear line for wrong input."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tiny import vesalius, write_recipe

from vesalius.core.run_directory import RunDirectory


def records(run, kind="step"):
    return [record for record in RunDirectory(run).read_metrics() if record["kind"] == kind]


def test_importing_the_package_does_not_import_torch():
    code = "import sys, vesalius, vesalius.cli; assert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_names_every_verb():
    text = vesalius("--help").stdout
    for verb in ("run", "train", "generate", "chat", "eval", "pull", "export", "bench", "recipes", "info"):
        assert f" {verb} " in text


def test_a_run_leaves_everything_that_a_run_directory_has(tiny_run):
    run = RunDirectory(tiny_run)
    for path in (run.recipe, run.metrics, run.evals, run.report, run.model / "model.safetensors", run.checkpoints):
        assert path.exists()
    assert [record["stage"] for record in records(tiny_run)] == ["train"] * 12 + ["sft"] * 4
    evals = run.read_evals()
    assert evals["finished"]
    assert 0 < evals["bits_per_byte"]["model"] < evals["bits_per_byte"]["uniform"]
    assert {sample["stage"] for sample in evals["samples"]} == {"train", "sft"}
    assert evals["seconds"].keys() >= {"tokenizer", "encode", "train", "sft", "eval"}


def test_the_model_of_a_run_opens_in_transformers(tiny_run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_run / "model")
    tokenizer = AutoTokenizer.from_pretrained(tiny_run / "model")
    assert model.config.model_type == "qwen3"
    assert tokenizer.decode(tokenizer.encode("def f(x):")) == "<|endoftext|>def f(x):"  # as in training


def test_a_directory_in_use_is_refused_and_a_finished_run_resumes_at_once(tiny_run):
    recipe = tiny_run.parent / "tiny.toml"
    again = vesalius("run", recipe, "--out", tiny_run)
    assert again.returncode == 2
    assert "is not empty: add --resume" in again.stderr
    before = RunDirectory(tiny_run).metrics.read_bytes()
    resumed = vesalius("run", "--resume", "--out", tiny_run)
    assert resumed.returncode == 0, resumed.stderr
    assert RunDirectory(tiny_run).metrics.read_bytes() == before


def test_another_recipe_cannot_resume_a_run(tiny_run):
    done = vesalius("run", tiny_run.parent / "tiny.toml", "--out", tiny_run, "--resume", "--set", "train.steps=99")
    assert done.returncode == 2
    assert "made by another recipe: train.steps is 12 there and 99 here" in done.stderr


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_losses(tmp_path, tiny_run):
    recipe = write_recipe(tmp_path)
    command = [sys.executable, "-m", "vesalius.cli", "run", str(recipe), "--out", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while len(records(tmp_path / "run")) < 5 and child.poll() is None:
        time.sleep(0.02)
    child.kill()
    child.wait()
    assert len(records(tmp_path / "run")) < 16
    resumed = vesalius("run", "--resume", "--out", tmp_path / "run")
    assert resumed.returncode == 0, resumed.stderr
    assert [r["loss"] for r in records(tmp_path / "run")] == [r["loss"] for r in records(tiny_run)]


@pytest.mark.slow
def test_ctrl_c_keeps_everything_writes_the_report_and_exits_with_130(tmp_path):
    recipe = write_recipe(tmp_path)
    recipe.write_text(recipe.read_text().replace("steps = 12", "steps = 100000"))
    command = [sys.executable, "-m", "vesalius.cli", "run", str(recipe), "--out", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while len(records(tmp_path / "run")) < 3 and child.poll() is None:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 130
    assert "everything is kept" in errors
    assert "Traceback" not in errors
    assert "nterrupted" in (tmp_path / "run" / "report.html").read_text()
    saved = records(tmp_path / "run")[-1]["step"]
    assert (tmp_path / "run" / "checkpoints" / "train" / f"step-{saved:08d}").is_dir()


def test_generate_prints_text_or_json(tiny_run):
    plain = vesalius("generate", tiny_run, "def ", "--max-tokens", "8")
    assert plain.returncode == 0, plain.stderr
    asked = vesalius("generate", tiny_run, "-", "--max-tokens", "8", "--json", stdin="def ")
    answer = json.loads(asked.stdout)
    assert answer["text"] == plain.stdout.removesuffix("\n")
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]


def test_chat_answers_lines_from_a_pipe(tiny_run):
    done = vesalius("chat", tiny_run, "--max-tokens", "8", stdin="What is 3?\n/help\n/reset\n/exit\n")
    assert done.returncode == 0, done.stderr
    assert "/reset" in done.stdout + done.stderr


def test_eval_measures_text(tiny_run):
    done = vesalius("eval", tiny_run, "--text", tiny_run.parent / "texts" / "3.py", "--json")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["bits_per_byte"]
    assert 0 < measured["bits_per_byte"] < 9
    assert measured["measured_bytes"] == (tiny_run.parent / "texts" / "3.py").stat().st_size


def test_info_counts_what_is_saved(tiny_run):
    from safetensors import safe_open

    facts = json.loads(vesalius("info", tiny_run, "--json").stdout)
    with safe_open(tiny_run / "model" / "model.safetensors", "pt") as file:
        stored = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118  not a dict
    assert facts["parameters"]["total"] == stored
    assert "layers, width 256" in vesalius("info", "micro").stdout


def test_recipes_lists_what_is_shipped_and_all_are_valid():
    from vesalius.pipeline.recipe import find_recipe

    names = json.loads(vesalius("recipes", "--json").stdout)
    assert names.keys() == {
        "quickstart", "pretrain", "sft", "heads", "best_of_n", "star", "constitution", "self_rewarding", "reward",
        "prm", "dpo", "kto", "lora",
    }  # fmt: skip
    for name in names:
        assert find_recipe(name, [])


WRONG = {
    "no such recipe": (["run", "quickstrat"], "did you mean 'quickstart'"),
    "misspelt key": (["run", "quickstart", "--set", "train.lerning_rate=1"], "did you mean 'learning_rate'"),
    "two budgets": (
        ["run", "quickstart", "--set", "train.steps=3"],
        "expected exactly one of steps, tokens and minutes",
    ),
    "no such conversations": (["run", "TINY", "--set", "data.conversations=['no.jsonl']"], "no such file: no.jsonl"),
    "no such file": (["train", "--text", "nothing/*.txt"], "nothing/*.txt"),
    "binary file": (["train", "--text", "binary.txt"], "binary.txt"),
    "empty file": (["train", "--text", "empty.txt"], "empty.txt"),
    "broken JSON": (["train", "--text", "broken.jsonl"], "broken.jsonl:2 is not valid JSON"),
    "vocabulary too large": (
        ["train", "--text", "small.txt", "--vocab-size", "9000"],
        "vocab_size is 9000, but this text supports at most",
    ),
    "context too long": (
        ["run", "TINY", "--set", "train.context=256"],
        "train.context is 256, but the model reads at most 128 tokens",
    ),
    "no model": (["generate", "nowhere", "hello"], "no model at nowhere"),
    "no recipe": (["run"], "vesalius recipes"),
    "no model or preset": (["info", "mirco"], "did you mean 'micro'"),
}


@pytest.fixture(scope="session")
def bad_inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    (folder / "binary.txt").write_bytes(b"abc\x00\x01\xff")
    (folder / "empty.txt").write_text("")
    (folder / "small.txt").write_text("one two three four five. " * 40)
    (folder / "broken.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    write_recipe(folder / "tiny")
    return folder


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_one_line_and_exit_code_2(bad_inputs, tmp_path, arguments, message):
    arguments = [str(bad_inputs / "tiny" / "tiny.toml") if word == "TINY" else word for word in arguments]
    if arguments[0] in ("run", "train"):
        arguments += ["--out", str(tmp_path / "out")]
    done = vesalius(*arguments, cwd=bad_inputs)
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert message in line
    assert line.startswith("vesalius: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [("info", "nano", "--threads", "1"), ("--threads=1", "info", "nano")])
def test_threads_may_be_said_anywhere_and_hold_for_torch(arguments):
    code = (
        "import atexit, sys; atexit.register(lambda: print(sys.modules['torch'].get_num_threads()));"
        "from vesalius.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "1"


@pytest.mark.parametrize("value", ["0", "-1", "two", "", "1000000", "²", "1.5"])
def test_what_is_no_number_of_threads_is_refused_in_one_line(value):
    done = vesalius("recipes", "--threads", value)
    assert done.returncode == 2
    assert done.stderr.startswith(f"vesalius: --threads is {value!r}, expected a whole number from 1 to ")
    assert done.stderr.count("\n") == 1


def test_debug_shows_the_traceback():
    done = vesalius("--debug", "info", "mirco")
    assert "Traceback" in done.stderr


def test_a_checkpoint_of_another_model_is_refused(tiny_run, tmp_path):
    """A run directory gets another model's checkpoints only by hand; training on from them would be silent nonsense."""
    import shutil

    shutil.copytree(tiny_run, tmp_path / "run")
    recipe = tmp_path / "run" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("hidden_size = 32", "hidden_size = 64"))
    done = vesalius("run", "--resume", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "hidden_size is 32 in the checkpoint and 64 here" in done.stderr
