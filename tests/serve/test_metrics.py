"""What Prometheus reads."""

from prometheus_client.parser import text_string_to_metric_families
from tiny_server import serving, with_engine

HI = [{"role": "user", "content": "Hi, this is a text that fills more than one block of the cache."}]


def numbers(running):
    with running.http() as http:
        answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found[(sample.name, *sorted(sample.labels.items()))] = sample.value
    return found


def test_answers_are_counted(lm):
    with serving(with_engine(lm)) as running:
        bias = {"0": -100, "1": -100, "2": -100}
        asked = [
            running.post("/v1/chat/completions", messages=HI, max_tokens=9, seed=1, n=2, logit_bias=bias)
            for _ in range(2)
        ]
        running.post("/v1/chat/completions", messages=[])
        with running.http() as http:
            http.get("/a/path/that/nobody/knows")
        found = numbers(running)
        usage = [answer.json()["usage"] for answer in asked]
        assert found[("vesalius_generated_tokens_total",)] == sum(one["completion_tokens"] for one in usage) == 36
        cached = sum(one["prompt_tokens_details"]["cached_tokens"] for one in usage)
        assert found[("vesalius_cached_tokens_total",)] == cached > 0
        assert 0 < found[("vesalius_cache_hit_ratio",)] <= 1
        assert found[("vesalius_answers_total", ("finish_reason", "length"))] == 4
        for name in ("time_to_first_token_seconds", "time_per_token_seconds", "answer_seconds"):
            assert found[(f"vesalius_{name}_count",)] == 4
        assert found[("vesalius_time_to_first_token_seconds_sum",)] < found[("vesalius_answer_seconds_sum",)]
        chat = ("path", "/v1/chat/completions")
        assert found[("vesalius_http_requests_total", chat, ("status", "200"))] == 2
        assert found[("vesalius_http_requests_total", chat, ("status", "400"))] == 1
        assert found[("vesalius_http_requests_total", ("path", "other"), ("status", "404"))] == 1
        assert found[("vesalius_waiting",)] == found[("vesalius_running",)] == found[("vesalius_cache_use_ratio",)] == 0
        assert found[("vesalius_acceptance_ratio",)] == 0
