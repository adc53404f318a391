"""The log, and traces: a line for each request, and no word of a prompt unless asked."""

import json
import logging

import pytest
from opentelemetry import propagate
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_span_id, format_trace_id
from tiny_server import serving, with_engine

from vesalius.core.errors import UserError
from vesalius.serve.logs import JsonLines
from vesalius.serve.tracing import OpenTelemetry, Tracing, open_tracing

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


CLIENTS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""A trace and a span that the client began, in W3C's form."""


@pytest.fixture
def traced(lm, monkeypatch):
    """A server whose spans are kept in memory by OpenTelemetry's own SDK."""
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracing = OpenTelemetry(provider.get_tracer("vesalius.serve"), propagate.extract)
    monkeypatch.setattr("vesalius.serve.app.open_tracing", lambda wanted: tracing if wanted else Tracing())
    with serving(with_engine(lm), traces=True) as running:
        yield running, kept.get_finished_spans
    provider.shutdown()


def test_a_span_tells_of_a_request_within_its_clients_trace(traced):
    running, spans = traced
    answer = ask(running, traceparent=CLIENTS)
    running.wait_until(spans)
    (span,) = spans()
    assert span.name == f"POST {CHAT}"
    assert (format_trace_id(span.context.trace_id), format_span_id(span.parent.span_id)) == tuple(
        CLIENTS.split("-")[1:3]
    )
    assert span.parent.is_remote
    usage = answer.json()["usage"]
    told = dict(span.attributes)
    assert 0 < told.pop("vesalius.first_token_seconds") <= (span.end_time - span.start_time) / 1e9
    assert told == {
        "vesalius.request_id": answer.headers["x-request-id"],
        "gen_ai.request.model": "tiny",
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "gen_ai.response.finish_reasons": (answer.json()["choices"][0]["finish_reason"],),
    }
    assert SECRET not in span.to_json()


def test_a_request_without_a_trace_begins_its_own_and_a_stream_has_one_span(traced):
    running, spans = traced
    messages = [{"role": "user", "content": SECRET}]
    stream = running.client().chat.completions.create(model="tiny", messages=messages, max_tokens=5, stream=True)
    pieces = list(stream)
    running.wait_until(spans)
    (span,) = spans()
    assert span.parent is None
    assert span.attributes["gen_ai.usage.output_tokens"] == 5
    assert span.attributes["gen_ai.response.finish_reasons"] == (pieces[-1].choices[0].finish_reason,)


def test_a_refused_request_has_a_span_that_tells_of_no_answer(traced):
    running, spans = traced
    assert running.post(CHAT, messages=[{"role": SECRET, "content": SECRET}]).status_code == 400
    running.wait_until(spans)
    (span,) = spans()
    assert set(span.attributes) == {"vesalius.request_id"}
    assert SECRET not in span.to_json()


def test_traces_without_their_packages_are_an_error_that_says_which(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(UserError, match="pip install opentelemetry-sdk"):
        open_tracing(wanted=True)
