"""The log, and traces: a line for each request, and no word of a prompt unless asked."""

import json
import logging

import pytest
from tiny_server import serving, with_engine

from vesalius.core.errors import UserError
from vesalius.serve.logs import JsonLines
from vesalius.serve.notes import Notes
from vesalius.serve.tracing import OpenTelemetry, open_tracing

SECRET = "my secret question"
CHAT = "/v1/chat/completions"


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "vesalius.serve")

    def read():
        return [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == "vesalius.serve"]

    return read


def ask(running, **headers):
    with running.http() as http:
        body = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 4, "seed": 1, "stop": "unlikely"}
        return http.post(CHAT, json=body, headers=headers)


def requests_in(lines):
    return [line for line in lines() if line["event"] == "request"]


def test_a_line_tells_of_a_request_and_nothing_of_its_text(running, lines):
    answer = ask(running, **{"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    running.wait_until(lambda: requests_in(lines))
    (line,) = requests_in(lines)
    assert line["request_id"] == "mine-1"
    assert (line["method"], line["path"], line["status"], line["model"]) == ("POST", CHAT, 200, "tiny")
    assert line["completion_tokens"] == answer.json()["usage"]["completion_tokens"]
    assert line["prompt_tokens"] == answer.json()["usage"]["prompt_tokens"]
    assert 0 < line["first_token_seconds"] <= line["seconds"]
    assert SECRET not in json.dumps(lines())


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, 'a"b'])
def test_an_id_that_could_spoil_the_log_is_replaced(running, given):
    told = ask(running, **{"X-Request-Id": given}).headers["x-request-id"]
    assert told.startswith("req_")
    assert told != ask(running).headers["x-request-id"]


def test_prompts_are_logged_when_asked_for(lm, lines):
    with serving(with_engine(lm), log_prompts=True) as running:
        ask(running)
        running.wait_until(lambda: requests_in(lines))
    assert SECRET in requests_in(lines)[0]["prompts"][0]


def test_a_refused_request_is_logged_too(running, lines):
    running.post(CHAT, messages=[{"role": SECRET, "content": SECRET}])
    running.wait_until(lambda: requests_in(lines))
    assert requests_in(lines)[0]["status"] == 400
    assert SECRET not in json.dumps(lines())


class Span:
    """Keeps what it is told."""

    def __init__(self, name, context):
        self.name, self.context, self.attributes, self.ended = name, context, {}, False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ended = True

    def set_attributes(self, attributes):
        self.attributes |= attributes


class Tracer:
    """Keeps its spans."""

    def __init__(self):
        self.spans = []

    def start_as_current_span(self, name, context):
        self.spans.append(Span(name, context))
        return self.spans[-1]


def test_a_span_tells_of_a_request_within_its_clients_trace():
    tracer = Tracer()
    tracing = OpenTelemetry(tracer, lambda headers: headers["traceparent"])
    notes = Notes(id="a", model="tiny", prompt_tokens=5)
    scope = {"method": "POST", "path": CHAT, "headers": [(b"traceparent", b"00-trace-span-01")]}
    with tracing.request(scope, notes):
        notes.answered(7, "stop", 0.5)
    (span,) = tracer.spans
    assert (span.name, span.context, span.ended) == (f"POST {CHAT}", "00-trace-span-01", True)
    assert span.attributes["gen_ai.usage.output_tokens"] == 7
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop",)


def test_traces_without_their_packages_are_an_error_that_says_which(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(UserError, match="pip install opentelemetry-sdk"):
        open_tracing(wanted=True)
