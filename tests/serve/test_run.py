"""The server as a process: signals, and the command line."""

import json
import os
import signal
import subprocess
import sys
import threading

import httpx
import pytest
from tiny import called, vesalius
from tiny_server import byte_tokenizer, tiny_lm

from vesalius.serve.run import name_of

LONG = {"messages": [{"role": "user", "content": "Hi"}], "logit_bias": {"0": -100, "1": -100, "2": -100}, "seed": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A saved model."""
    place = tmp_path_factory.mktemp("served") / "tiny"
    tiny_lm(byte_tokenizer()).save(place)
    return place


class Process:
    """`vesalius serve` on a free port."""

    def __init__(self, model, *arguments):
        command = [sys.executable, "-m", "vesalius.cli", "serve", str(model), "--port", "0", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        self.lines = []
        self.url = self.wait_for("serving")["url"]

    def wait_for(self, event):
        """The next line about an event."""
        for line in self.child.stderr:
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise AssertionError(self.lines)

    def end(self, sent):
        """Sends a signal -> the exit code, once the process is gone."""
        self.child.send_signal(sent)
        self.child.communicate(timeout=60)
        return self.child.returncode


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_finishes_what_has_begun(model, sent):
    process = Process(model)
    with httpx.stream(
        "POST", f"{process.url}/v1/chat/completions", json={**LONG, "stream": True}, timeout=60
    ) as answer:
        pieces = answer.iter_text()
        text = next(pieces)
        process.child.send_signal(sent)
        text += "".join(pieces)
    assert text.endswith("data: [DONE]\n\n")
    assert '"finish_reason":"length"' in text
    process.child.communicate(timeout=60)
    assert process.child.returncode == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{process.url}/health")


@pytest.mark.slow
def test_what_does_not_end_is_cut_off_after_a_time(model):
    process = Process(model, "--set", "drain_seconds=1", "--set", "max_running=1")
    asked = {**LONG, "n": 100}
    answers = []

    def ask():
        try:
            answers.append(httpx.post(f"{process.url}/v1/chat/completions", json=asked, timeout=60).status_code)
        except httpx.HTTPError as error:
            answers.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while b"vesalius_running 1.0" not in httpx.get(f"{process.url}/metrics").content:
        assert thread.is_alive()
    assert process.end(signal.SIGTERM) == 0
    thread.join()
    assert answers[0] != 200


@pytest.mark.slow
def test_sighup_opens_the_model_anew(model, tmp_path):
    place = tmp_path / "model-dir"
    tiny_lm(byte_tokenizer()).save(place)
    process = Process(place, "--name", "mine")
    asked = {"messages": LONG["messages"], "model": "mine", "temperature": 0, "max_tokens": 12}
    before = httpx.post(f"{process.url}/v1/chat/completions", json=asked, timeout=60).json()
    tiny_lm(byte_tokenizer(), layers=1).save(place)
    process.child.send_signal(signal.SIGHUP)
    assert process.wait_for("swapped")["model"] == "mine"
    after = httpx.post(f"{process.url}/v1/chat/completions", json=asked, timeout=60).json()
    assert before["choices"][0]["message"] != after["choices"][0]["message"]
    (place / "config.json").write_text("{")
    process.child.send_signal(signal.SIGHUP)
    assert "config.json" in process.wait_for("swap failed")["error"]
    assert (
        httpx.post(f"{process.url}/v1/chat/completions", json=asked, timeout=60).json()["choices"] == after["choices"]
    )
    assert process.end(signal.SIGTERM) == 0


@pytest.mark.slow
def test_an_address_that_is_taken_is_one_line(model):
    process = Process(model)
    port = process.url.rsplit(":", 1)[1]
    second = vesalius("serve", model, "--port", port)
    assert second.returncode == 1
    assert f"port {port}" in second.stderr
    assert "Traceback" not in second.stderr
    process.end(signal.SIGTERM)


def test_wrong_settings_are_one_line(model):
    for arguments, said in (
        (("--host", "0.0.0.0"), "--api-key"),
        (("--set", "max_qeue=3"), "did you mean 'max_queue'?"),
        (("--set", "timeout=soon"), "timeout = 'soon'"),
        (("--set", "max_running"), "name=value"),
        (("--set", "cache_dtype=int4"), "cache_dtype"),
    ):
        done = called("serve", model, *arguments)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_batch_from_the_command_line(model, tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    requests = [
        {"custom_id": f"{i}", "method": "POST", "url": "/v1/chat/completions", "body": {**LONG, "max_tokens": 3}}
        for i in range(5)
    ]
    source.write_text("\n".join(map(json.dumps, requests)))
    done = called("batch", model, source, target, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"total": 5, "skipped": 0, "failed": 0}
    assert len(target.read_text().splitlines()) == 5
    again = called("batch", model, source, target)
    assert "5 requests, 5 of them answered before" in again.stdout


def test_a_model_is_called_by_what_it_was_named(model, tmp_path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    assert name_of(str(tmp_path / "run" / "model")) == "run"
    assert name_of(str(model)) == "tiny"
    assert name_of("owner/name") == "owner/name"
