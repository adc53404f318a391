"""Traces in OpenTelemetry's terms: a span for each request, within the trace that the client began.

Names follow the semantic conventions for generative AI. The SDK and its exporter are optional packages; the
environment's OTEL_… variables say where spans go. Without `traces` nothing of it is imported.
"""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from starlette.types import Scope

from vesalius.core.errors import UserError
from vesalius.serve.notes import Notes


class Tracing:
    """Does nothing: for a server that is not traced."""

    @contextlib.contextmanager
    def request(self, scope: Scope, notes: Notes) -> Iterator[None]:
        """A span while a request is handled."""
        yield


class OpenTelemetry(Tracing):
    """Spans of one tracer."""

    def __init__(self, tracer: Any, extract: Any) -> None:
        """`tracer` is OpenTelemetry's; `extract` reads the client's context from headers."""
        self._tracer, self._extract = tracer, extract

    @contextlib.contextmanager
    def request(self, scope: Scope, notes: Notes) -> Iterator[None]:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        name = f"{scope['method']} {scope['path'][:200]}"
        with self._tracer.start_as_current_span(name, context=self._extract(headers)) as span:
            try:
                yield
            finally:
                span.set_attributes(_attributes(notes))


def open_tracing(*, wanted: bool) -> Tracing:
    """Traces for a server, none where they are not wanted. UserError where the packages for them are missing."""
    if not wanted:
        return Tracing()
    try:
        trace, sdk, export, exporter, propagate = (
            importlib.import_module(f"opentelemetry.{name}")
            for name in (
                "trace",
                "sdk.trace",
                "sdk.trace.export",
                "exporter.otlp.proto.http.trace_exporter",
                "propagate",
            )
        )
    except ImportError as error:
        raise UserError(
            f"traces need OpenTelemetry, and {error.name} is missing: pip install opentelemetry-sdk "
            "opentelemetry-exporter-otlp-proto-http, or leave traces out"
        ) from error
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.BatchSpanProcessor(exporter.OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return OpenTelemetry(trace.get_tracer("vesalius.serve"), propagate.extract)


def _attributes(notes: Notes) -> dict[str, Any]:
    found: dict[str, Any] = {"vesalius.request_id": notes.id}
    if notes.model is not None:
        found |= {
            "gen_ai.request.model": notes.model,
            "gen_ai.usage.input_tokens": notes.prompt_tokens,
            "gen_ai.usage.output_tokens": notes.completion_tokens,
            "gen_ai.response.finish_reasons": tuple(notes.finish_reasons),
        }
    if notes.first is not None:
        found["vesalius.first_token_seconds"] = notes.first
    return found
