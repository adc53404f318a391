"""The verbs pull, export, info and bench as a user types them, on a model that was trained here, and on wrong input."""

import importlib.util
import json

import pytest
from gguf_models import real_file
from tiny import called, vesalius

from vesalius.hub.gguf.reader import read_gguf
from vesalius.infer.language_model import LanguageModel


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    """A run of this package as a GGUF file in float32."""
    path = tmp_path_factory.mktemp("exported") / "tiny.gguf"
    done = called("export", tiny_run, path, "--dtype", "f32", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["path"], facts["architecture"], facts["bytes"]) == (str(path), "qwen3", path.stat().st_size)
    return path


def test_a_trained_run_goes_out_and_comes_back_with_the_same_words(tiny_run, exported):
    plain = called("generate", tiny_run, "def ", "--max-tokens", "12")
    again = vesalius("generate", exported, "def ", "--max-tokens", "12")
    assert again.stdout == plain.stdout != ""


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
def test_llama_cpp_continues_a_trained_run_as_we_do(tiny_run, exported):
    from llama_cpp import Llama

    lm = LanguageModel.load(tiny_run)
    theirs = Llama(str(exported), n_ctx=128, verbose=False, n_threads=1)
    ids = lm.prompt_ids("def function_3(path")
    assert theirs.tokenize(b"def function_3(path", add_bos=bool(lm.tokenizer.prompt_prefix)) == ids
    answer = lm.generate("def function_3(path", max_tokens=24)
    words = []
    for token in theirs.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
        words.append(token)
        if len(words) == len(answer.ids):
            break
    assert words == answer.ids


def test_a_smaller_format_is_said_and_written(exported, tmp_path):
    done = called("export", exported, tmp_path / "small.gguf", "--dtype", "q4_1")
    assert done.returncode == 0, done.stderr
    assert "qwen3" in done.stdout
    assert "q4_1" in done.stdout
    assert read_gguf(tmp_path / "small.gguf").tensors["blk.0.ffn_up.weight"].format == "q4_1"


def test_info_says_how_a_file_is_stored(exported):
    facts = json.loads(called("info", exported, "--json").stdout)
    stored = facts["stored"]
    assert (stored["container"], stored["architecture"], set(stored["formats"])) == ("GGUF", "qwen3", {"f32"})
    assert stored["bytes"] == 4 * facts["parameters"]["total"]
    text = called("info", exported).stdout
    for words in ("GGUF, qwen3", "300 tokens", "with a chat template", "f32", "context 128"):
        assert words in text


def test_bench_times_a_file_beside_the_limits(exported):
    facts = json.loads(called("bench", exported, "--repeats", "1", "--json").stdout)
    assert facts["model"] == str(exported)
    assert {row["work"] for row in facts["speed"]} == {"prompt of 100", "64 tokens behind 16"}
    for row in facts["speed"]:
        assert row.keys() == {"work", "rate", "limit", "seconds", "share"}
    assert facts["limits"].keys() == {"float32", "bfloat16", "read"}
    assert min(*facts["limits"].values(), facts["load_seconds"], facts["peak_bytes"]) > 0
    text = called("bench", exported, "--repeats", "1").stdout
    for words in (facts["hardware"], "peak memory", "tok/s", "64 tokens behind 16"):
        assert words in text


def test_pull_finds_what_is_here_and_refuses_what_is_no_name(tmp_path, monkeypatch):
    if real_file() is not None:
        done = called("pull", "smollm2-135m-instruct", "--json")
        assert json.loads(done.stdout) == {"path": str(real_file()), "source": "cache"}
    monkeypatch.setenv("VESALIUS_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert "did you mean 'minilm-l6'" in called("pull", "minilm-l7").stderr


WRONG = {
    "export to a format": (["export", "FILE", "x.gguf", "--dtype", "q5"], "dtype 'q5' is not a format that can be"),
    "export over a directory": (["export", "FILE", "."], "exists already"),
    "export of nothing": (["export", "nowhere", "x.gguf"], "no model at nowhere"),
    "an encoder": (["generate", "minilm-l6", "x"], "is an encoder"),
    "a cut file": (["info", "cut.gguf"], "cut off or damaged"),
    "no GGUF": (["chat", "junk.gguf"], "no GGUF file"),
    "bench of nothing": (["bench", "nowhere"], "no model at nowhere"),
    "bench of nothing, often": (["bench", "FILE", "--repeats", "0"], "repeats = 0, expected"),
    "pull of a path": (["pull", "./x"], "neither an alias nor a hub id"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_one_line_and_exit_code_2(exported, tmp_path, arguments, message):
    (tmp_path / "junk.gguf").write_bytes(b"JUNK" * 20)
    (tmp_path / "cut.gguf").write_bytes(exported.read_bytes()[:-5000])
    before = sorted(path.name for path in tmp_path.iterdir())
    done = called(*[exported if word == "FILE" else word for word in arguments], cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert message in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before
