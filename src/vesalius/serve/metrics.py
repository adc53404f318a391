"""What Prometheus reads at /metrics: the queue, the engine's counters, and how long clients wait.

Counters of the engine are read when somebody asks, so that they cost nothing between. A swapped-in model starts its own
at zero, which Prometheus takes for a restart. Times are in seconds and per answer.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vesalius.infer.engine import Engine

FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
WHOLE = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

COUNTERS = {
    "prompt_tokens": "Tokens of prompts, found in the cache or read.",
    "cached_tokens": "Tokens of prompts found in the prefix cache.",
    "cold_tokens": "Tokens whose keys and values came back from a file.",
    "generated_tokens": "Tokens written.",
    "preemptions": "Times that a sequence gave its memory to others.",
    "drafted": "Tokens guessed by speculative decoding.",
    "accepted": "Guessed tokens that turned out right.",
}
"""Counter of `EngineStats` -> what it says."""


class Metrics:
    """The numbers of one server."""

    def __init__(self, engine: Callable[[], Engine]) -> None:
        """`engine` gives the engine that is served now."""
        self.registry = CollectorRegistry()
        self.registry.register(_EngineNumbers(engine))
        self.first = self._histogram("time_to_first_token_seconds", "From request to first token.", FIRST)
        self.per_token = self._histogram("time_per_token_seconds", "Between tokens after the first.", PER_TOKEN)
        self.whole = self._histogram("answer_seconds", "From request to last token.", WHOLE)
        self.answers = Counter(
            "vesalius_answers", "Answers by how they ended.", ["finish_reason"], registry=self.registry
        )
        self.requests = Counter(
            "vesalius_http_requests", "Requests by path and status.", ["path", "status"], registry=self.registry
        )

    def answered(self, reason: str, tokens: int, first: float, whole: float) -> None:
        """Counts one answer: how it ended, its tokens, and seconds from the request to its first and last one."""
        self.answers.labels(reason).inc()
        self.first.observe(first)
        self.whole.observe(whole)
        if tokens > 1:
            self.per_token.observe((whole - first) / (tokens - 1))

    def text(self) -> bytes:
        """All of them in Prometheus' format."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"vesalius_{name}", about, buckets=buckets, registry=self.registry)


class _EngineNumbers(Collector):
    """Reads the engine's counters; whole numbers, so no lock is needed against its thread."""

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        engine = self._engine()
        stats = engine.stats
        used = engine.blocks.used / engine.blocks.count
        yield GaugeMetricFamily("vesalius_waiting", "Sequences in the queue.", engine.waiting)
        yield GaugeMetricFamily("vesalius_running", "Sequences that are being written.", engine.running)
        yield GaugeMetricFamily("vesalius_cache_use_ratio", "Share of the cache's blocks in use.", used)
        yield GaugeMetricFamily(
            "vesalius_cache_hit_ratio", "Share of prompt tokens found in the cache.", stats.hit_rate
        )
        yield GaugeMetricFamily("vesalius_acceptance_ratio", "Share of guessed tokens accepted.", stats.acceptance)
        for name, about in COUNTERS.items():
            yield CounterMetricFamily(f"vesalius_{name}", about, getattr(stats, name))
