"""The queue, leaving clients, time limits, another model, and an engine that breaks."""

import json
import threading

import httpx
import pytest
from tiny_server import OPTIONS, byte_tokenizer, serving, tiny_lm, with_engine

from vesalius.core.errors import UserError, VesaliusError
from vesalius.serve.service import Served

HI = [{"role": "user", "content": "Hi"}]
LONG = {"messages": HI, "logit_bias": {"0": -100, "1": -100, "2": -100}, "seed": 1}
"""Writes to the end of the context."""


class Held:
    """An engine whose steps wait until it is let go."""

    def __init__(self, lm):
        self.gate = threading.Event()
        self.engine = lm.engine
        step = self.engine.step

        def held():
            self.gate.wait(30)
            return step()

        self.engine.step = held


@pytest.fixture
def held_server(lm):
    """A server that answers nothing before `gate` is set."""
    own = with_engine(lm)
    held = Held(own)
    with serving(own, max_queue=2) as running:
        try:
            yield running, held.gate
        finally:
            held.gate.set()


def in_background(running, count, **body):
    answers = []

    def ask():
        answers.append(running.post("/v1/chat/completions", **{**LONG, "max_tokens": 3, **body}))

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, answers


def test_a_full_queue_says_429_and_when_to_come_again(held_server):
    running, gate = held_server
    room = OPTIONS.max_running + 2
    threads, answers = in_background(running, room)
    running.wait_until(lambda: running.service.open == room)
    refused = running.post("/v1/chat/completions", **LONG)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.json()["error"]["code"] == "queue_full"
    gate.set()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * room
    assert running.post("/v1/chat/completions", **LONG, max_tokens=1).status_code == 200


def test_more_answers_than_there_is_ever_room_for_are_no_matter_of_waiting(held_server):
    running, _ = held_server
    assert running.post("/v1/chat/completions", **LONG, n=7).status_code == 400


def test_http_answers_while_the_model_computes(held_server):
    running, gate = held_server
    threads, _ = in_background(running, 1)
    running.wait_until(lambda: running.service.open == 1)
    with running.http() as http:
        assert http.get("/health").status_code == 200
        assert "vesalius_waiting" in http.get("/metrics").text
    assert running.post("/tokenize", prompt="a").status_code == 200
    gate.set()
    threads[0].join()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_memory(lm, stream):
    own = with_engine(lm)
    with serving(own) as running, running.connect() as connection:
        body = json.dumps({**LONG, "stream": stream, "n": 4}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        running.wait_until(lambda: running.blocks_used > 0)
        connection.close()
        running.wait_until(lambda: running.service.open == 0 and running.blocks_used == 0)
        assert own.engine.stats.generated_tokens < 4 * 400  # it did not write to the end
        assert not own.engine.has_work


def test_a_client_that_leaves_before_its_answer_begins_frees_its_memory(held_server):
    running, gate = held_server
    with pytest.raises(httpx.ReadTimeout), running.http() as http:
        http.post("/v1/chat/completions", json=LONG, timeout=0.3)
    running.wait_until(lambda: running.service.open == 0)
    gate.set()
    running.wait_until(lambda: not running.service.served.lm.engine.has_work)
    assert running.blocks_used == 0


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_too_long_is_given_up(lm, stream):
    own = with_engine(lm)
    held = Held(own)
    with serving(own, timeout=0.3) as running:
        asked = {**LONG, "stream": stream}
        threads, answers = in_background(running, 1, **asked)
        running.wait_until(lambda: running.service.open == 1)
        running.wait_until(lambda: running.service.open == 0)
        held.gate.set()
        threads[0].join()
        if stream:
            events = answers[0].text.strip().split("\n\n")
            assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "timeout"
        else:
            assert answers[0].status_code == 504
            assert answers[0].json()["error"]["code"] == "timeout"
        running.wait_until(lambda: running.blocks_used == 0)


def test_another_model_is_put_in_without_interrupting_anybody(lm):
    other = tiny_lm(byte_tokenizer(), layers=1)
    own = with_engine(lm)
    held = Held(own)
    with serving(own, reload=lambda name: Served(name, with_engine(other)), allow_swap=True) as running:
        threads, answers = in_background(running, 2, temperature=0, max_tokens=20)
        running.wait_until(lambda: running.service.open == 2)
        assert running.post("/v1/models/swap", model="other").json()["id"] == "other"
        new_threads, new_answers = in_background(running, 1, model="other", temperature=0, max_tokens=20)
        running.wait_until(lambda: running.service.open == 3)
        held.gate.set()
        for thread in (*threads, *new_threads):
            thread.join()
        before, after = (m.generate(HI, max_tokens=20, logit_bias=LONG["logit_bias"]).text for m in (lm, other))
        assert before != after
        assert [answer.json()["choices"][0]["message"]["content"] for answer in answers] == [before] * 2
        assert new_answers[0].json()["choices"][0]["message"]["content"] == after
        assert running.post("/v1/chat/completions", model="tiny", messages=HI).status_code == 404


def test_a_model_that_cannot_be_opened_leaves_the_old_one(lm):
    def refuse(name):
        raise UserError(f"no model at {name}")

    with serving(with_engine(lm), reload=refuse, allow_swap=True) as running:
        answer = running.post("/v1/models/swap", model="nowhere")
        assert answer.status_code == 400
        assert "no model at nowhere" in answer.json()["error"]["message"]
        assert running.post("/v1/chat/completions", model="tiny", messages=HI, max_tokens=1).status_code == 200


def test_a_swap_has_to_be_allowed(running):
    assert running.post("/v1/models/swap", model="other").status_code in (404, 405)


def test_an_engine_that_breaks_fails_what_is_open_and_stops_the_server(lm, caplog):
    own = with_engine(lm)

    def broken():
        raise RuntimeError("out of memory")

    own.engine.step = broken
    with serving(own) as running:
        answer = running.post("/v1/chat/completions", **LONG)
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "server_error"
        running.wait_until(lambda: running.server.should_exit)
        assert isinstance(running.service.broken, RuntimeError)
    assert "out of memory" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
def test_one_answer_that_fails_leaves_the_others(lm, stream):
    own = with_engine(lm)
    step = own.engine.step

    def failing():
        changed = step()
        for sequence in changed:
            if sequence.params.seed == 13:
                sequence.error = VesaliusError("its weights are broken")
                own.engine.cancel(sequence)
        return changed

    own.engine.step = failing
    with serving(own) as running:
        threads, answers = in_background(running, 2, max_tokens=30)
        failed = running.post("/v1/chat/completions", **{**LONG, "seed": 13, "stream": stream})
        for thread in threads:
            thread.join()
        if stream:
            assert (
                json.loads(failed.text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]["type"]
                == "server_error"
            )
        else:
            assert failed.status_code == 500
        assert "its weights are broken" in failed.text
        assert [answer.status_code for answer in answers] == [200, 200]
