"""What a client might send that is no fair request: each gets its status, and the server stays up."""

import json
import socket

import pytest
from tiny_server import Running, serving, with_engine

HI = [{"role": "user", "content": "Hi"}]
CHAT = "/v1/chat/completions"


def send(running: Running, content: bytes, path: str = CHAT):
    with running.http() as http:
        return http.post(path, content=content, headers={"Content-Type": "application/json"})


def message_of(answer) -> str:
    assert answer.headers["content-type"] == "application/json"
    return answer.json()["error"]["message"]


def test_a_large_body_is_refused(running):
    answer = send(running, b'{"messages": "' + b"x" * 10_000_000 + b'"}')
    assert answer.status_code == 413
    assert "more than 4194304 bytes" in message_of(answer)


def test_a_large_body_that_does_not_say_its_size_is_refused(running):
    pieces = (b"x" * 100_000 for _ in range(100))
    with running.http() as http:
        answer = http.post(CHAT, content=pieces, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe{}", "not UTF-8"),
        (b'{"messages": [{"role": "user", "content": "\xc3\x28"}]}', "not UTF-8"),
        (b'{"messages": ', "not valid JSON"),
        (b'{"temperature": NaN}', "NaN is no number"),
        (b'{"temperature": -Infinity}', "-Infinity is no number"),
        (b'{"temperature": 1e999}', "beyond the numbers"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"logit_bias": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper"),
        (b'{"tools": ' + b"[" * 200 + b"]" * 200 + b"}", "nested deeper"),
        (b"[]", "valid dictionary"),
        (b"7", "valid dictionary"),
        (b"null", ""),
        (b"", "required"),
        (json.dumps({"messages": HI, "stop": ["x"] * 10**6}).encode()[: 4 * 2**20 - 1], ""),
        (json.dumps({"messages": HI, "stop": ["x"] * 10**5}).encode(), "stop"),
        (b'{"\\ud800": 1, "messages": [{"role": "user", "content": "a"}]}', "unknown field"),
        (b'{"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"\\ud800": 1}}', "no option"),
    ],
)
def test_what_is_no_request_is_refused(running, content, said):
    answer = send(running, content)
    assert answer.status_code == 400
    assert said in message_of(answer)
    assert len(answer.content) < 2000


def test_half_a_surrogate_pair_is_an_unknown_character(running, lm):
    told = send(running, b'{"prompt": "\\ud800"}', path="/tokenize").json()
    assert told["tokens"] == lm.prompt_ids("\ufffd")
    assert send(running, b'{"max_tokens": 1, "messages": [{"role": "user", "content": "\\ud800"}]}').status_code == 200
    assert send(running, b'{"model": "\\ud800", "messages": [{"role": "user", "content": "a"}]}').status_code == 400


def test_a_million_stop_texts_are_refused(running):
    answer = running.post(CHAT, messages=HI, stop=["x"] * 10**6)
    assert answer.status_code in (400, 413)


def test_what_is_not_json_is_refused(running):
    with running.http() as http:
        answer = http.post(CHAT, content=b'{"messages": []}', headers={"Content-Type": "text/plain"})
    assert answer.status_code == 400


def test_unknown_paths_and_methods(running):
    with running.http() as http:
        assert http.get("/v1/nothing").status_code == 404
        assert http.get(CHAT).status_code == 405
        assert http.get("/v1/nothing").json()["error"]["type"] == "invalid_request_error"


def test_what_is_no_http_is_refused(running):
    with running.connect() as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        assert b"400" in connection.recv(1000)


def test_endless_headers_are_refused(running):
    with running.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"y" * 200_000)
        assert b"400" in connection.recv(1000)


@pytest.fixture(scope="module")
def impatient(lm):
    """A server that waits for requests a fifth of a second only."""
    with serving(with_engine(lm), body_seconds=0.2, timeout=60) as server:
        yield server


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n",
    ],
)
def test_a_head_that_never_ends_loses_its_connection(impatient, sent):
    with impatient.connect() as connection:
        connection.sendall(sent)
        received = b""
        while data := connection.recv(1000):  # ends when the server closes
            received += data
    assert received.count(b"200 OK") == sent.count(b"\r\n\r\n")


def test_a_body_that_never_ends_gets_408(impatient):
    with impatient.connect() as connection:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(head + b"Content-Length: 1000\r\n\r\n{")
        assert b" 408 " in connection.recv(1000)


def test_slow_connections_do_not_keep_others_out(impatient):
    slow = [impatient.connect() for _ in range(50)]
    for connection in slow:
        connection.sendall(b"POST / HTTP/1.1\r\nX: ")
    with impatient.http() as http:
        assert http.get("/health").status_code == 200
    for connection in slow:
        assert connection.recv(100) == b""
        connection.close()


def test_a_client_that_does_not_read_is_left(lm):
    """The answer's time is up also while the server waits to send it."""
    with serving(with_engine(lm), timeout=0.5) as running, running.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = json.dumps(
            {"messages": HI, "stream": True, "n": 4, "logprobs": True, "top_logprobs": 20, "seed": 1}
        ).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        running.wait_until(lambda: running.service.open > 0)
        running.wait_until(lambda: running.service.open == 0 and running.blocks_used == 0)
