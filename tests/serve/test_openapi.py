"""Requests that are made up from the server's own description, good and bad ones: none may break it."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from tiny_server import serving, with_engine

ASKED = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/embeddings"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("POST", "/render"),
]


@pytest.fixture(scope="module")
def described(lm):
    with serving(with_engine(lm), timeout=20) as running:
        yield schemathesis.openapi.from_url(f"{running.url}/openapi.json"), running


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(("method", "path"), ASKED)
def test_no_request_breaks_the_server(described, method, path, mode):
    schema, running = described

    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def one(case):
        answer = case.call(timeout=30)
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            assert answer.json()["error"].keys() == {"message", "type", "param", "code"}

    one()
    running.wait_until(lambda: running.service.open == 0 and running.blocks_used == 0)


def test_the_description_names_every_endpoint(running):
    with running.http() as http:
        described = http.get("/openapi.json").json()
    assert described["paths"].keys() == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/embeddings",
        "/v1/models",
        "/v1/models/{name}",
        "/tokenize",
        "/detokenize",
        "/render",
        "/health",
        "/ready",
        "/metrics",
    }
    assert "ChatRequest" in described["components"]["schemas"]
