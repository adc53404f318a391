"""The HTTP application: which path leads to which endpoint, in the order in which a request meets them.

    Watch (logs.py)       its id, its line in the log, its count
    Gate (security.py)    host, key, size
    StrictJson            JSON as RFC 8259 has it
    an endpoint below     a checked request -> an exchange, or an answer
    error_response        whatever goes wrong, in OpenAI's shape

OpenAPI's description of all this is at /openapi.json. FastAPI's own pages for it are left out: they load their scripts
from other servers.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from vesalius.core.errors import VesaliusError
from vesalius.serve import __doc__ as about
from vesalius.serve.chat_completions import begin_chat
from vesalius.serve.completions import begin_completions
from vesalius.serve.embeddings import embed
from vesalius.serve.errors import Json, error_response, unavailable
from vesalius.serve.exchange import Exchange, finished, respond
from vesalius.serve.logs import Watch, log
from vesalius.serve.page.page import add_page
from vesalius.serve.protocol.chat import ChatRequest, Conversation
from vesalius.serve.protocol.completions import CompletionRequest
from vesalius.serve.protocol.embeddings import EmbeddingRequest
from vesalius.serve.protocol.responses import ResponseRequest
from vesalius.serve.protocol.sampling import TEMPERATURE
from vesalius.serve.protocol.tokens import DetokenizeRequest, SwapRequest, TokenizeRequest
from vesalius.serve.responses import begin_response
from vesalius.serve.security import Gate
from vesalius.serve.service import Served, Service
from vesalius.serve.strict_json import parse_json
from vesalius.serve.tokens import detokenize, render, tokenize
from vesalius.serve.tracing import open_tracing


def create_app(service: Service) -> FastAPI:
    """The application over a service, which it starts and stops with itself."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    app = FastAPI(title="Vesalius", description=about or "", lifespan=lifespan, docs_url=None, redoc_url=None)
    for kind in (HTTPException, RequestValidationError, VesaliusError, Exception):
        app.add_exception_handler(kind, error_response)
    routers = (_answers(service), _about_texts(service), _about_server(service))
    for router in routers:
        app.include_router(router)
    add_page(app)
    paths = frozenset(route.path for router in routers for route in router.routes if isinstance(route, APIRoute))
    app.add_middleware(Gate, settings=service.settings)
    tracing = open_tracing(wanted=service.settings.traces)
    app.add_middleware(Watch, metrics=service.metrics, tracing=tracing, paths=paths)
    return app


class StrictJson(APIRoute):
    """A route whose body is read by `parse_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict


class _StrictRequest(Request):
    async def json(self) -> Any:
        return parse_json(await self.body())


def _answers(service: Service) -> APIRouter:
    """Endpoints that write."""
    router = APIRouter(route_class=StrictJson, tags=["answers"])
    seconds = service.settings.timeout

    async def answered(request: Request, begun: Awaitable[Exchange], *, stream: bool | None) -> Response:
        return await respond(request, await begun, seconds, stream=bool(stream))

    @router.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Answers to a conversation."""
        return await answered(request, begin_chat(service, body), stream=body.stream)

    @router.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Texts gone on from."""
        return await answered(request, begin_completions(service, body), stream=body.stream)

    @router.post("/v1/responses")
    async def responses(body: ResponseRequest, request: Request) -> Response:
        """An answer in items."""
        return await answered(request, begin_response(service, body), stream=body.stream)

    @router.post("/v1/embeddings")
    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """Texts as vectors."""
        return Json(await finished(request.receive, embed(service, body), seconds))

    return router


def _about_texts(service: Service) -> APIRouter:
    """Endpoints that need no model but its tokenizer."""
    router = APIRouter(route_class=StrictJson, tags=["tokens"])

    @router.post("/tokenize")
    async def tokenized(body: TokenizeRequest) -> Response:
        """The tokens of a text or a conversation."""
        return Json(await tokenize(service, body))

    @router.post("/detokenize")
    async def detokenized(body: DetokenizeRequest) -> Response:
        """The text of tokens."""
        return Json(await detokenize(service, body))

    @router.post("/render")
    async def rendered(body: Conversation) -> Response:
        """What the model reads of a conversation."""
        return Json(await render(service, body))

    return router


def _about_server(service: Service) -> APIRouter:
    """Endpoints about the server and its model."""
    router = APIRouter(route_class=StrictJson, tags=["server"])

    @router.get("/v1/models")
    async def models() -> Response:
        """The served model, and under further names the same with an adapter."""
        return Json({"object": "list", "data": [model_card(served) for served in service.served.all]})

    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        """A served model, by its name."""
        return Json(model_card(service.model(name)))

    @router.get("/health")
    async def health() -> Response:
        """Whether the engine works."""
        if service.broken is not None:
            raise unavailable("the engine broke down; the log says why")
        return Json({"status": "ok"})

    @router.get("/ready")
    async def ready() -> Response:
        """Whether a request would be answered."""
        if not service.is_ready:
            raise unavailable("the server is shutting down")
        return Json({"status": "ready", "model": service.served.name})

    @router.get("/metrics")
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")

    if service.settings.allow_swap:

        @router.post("/v1/models/swap")
        async def swap(body: SwapRequest) -> Response:
            """Another model in the place of the served one. Answers that have begun are finished by the old one."""
            served = await service.swap(body.model)
            log("swapped", model=served.name)
            return Json(model_card(served))

    return router


def model_card(served: Served) -> dict[str, Any]:
    """What /v1/models tells of a model: OpenAI's fields, its context, and the settings that hold where a request says
    none."""
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "vesalius",
        "context_length": served.context,
        "max_model_len": served.context,  # vLLM's name for it, which other programs read
        "sampling": {"temperature": TEMPERATURE, **served.lm.generation_defaults},
        "chat_template": served.lm.tokenizer.chat_template is not None,
    }
