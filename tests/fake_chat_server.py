"""A server with the API that the chat page uses, whose answers, pauses and refusals a test sets beforehand."""

import asyncio
import json
import math
import re
import socket
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from vesalius.serve.page.page import add_page

Entry = dict[str, Any]
RIVALS = (" the", " a", " bone", " muscle", " heart", " hand")
MODEL = {
    "id": "tiny-anatomist",
    "object": "model",
    "context_length": 2048,
    "sampling": {"temperature": 0.7, "top_p": 0.9, "max_tokens": 512},
}


def entries(text: str) -> list[Entry]:
    """The text in tokens, each with a probability and rivals that depend on nothing but the token and its place."""
    return [entry(token, n) for n, token in enumerate(re.findall(r" ?\w+|\n| +|[^\w\s]", text))]


def entry(token: str, n: int) -> Entry:
    """The first of an answer is certain, the fourth (index 3) is always the third likeliest with 12 %."""
    probability = 1.0 if n == 0 else 0.12 if n == 3 else 0.02 + 0.97 * (zlib.crc32(f"{n}{token}".encode()) % 100) / 100
    shares = [0.5, 0.25] if n == 3 else [(1 - probability) * share for share in (0.5, 0.25)]
    top = [(token, probability), *zip([rival for rival in RIVALS if rival != token], shares, strict=False)]
    listed = sorted((pair for pair in top if pair[1] > 0), key=lambda pair: -pair[1])
    return logprob(token, probability) | {"top_logprobs": [logprob(*pair) for pair in listed]}


def logprob(token: str, probability: float) -> Entry:
    return {"token": token, "logprob": math.log(probability), "bytes": list(token.encode())}


@dataclass
class FakeServer:
    """What a test sets, and what the page asked for."""

    url: str = ""
    answers: dict[str, str | list[Entry]] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=lambda: [MODEL])
    key: str | None = None
    refusals: list[Response] = field(default_factory=list)
    pause_after: int | None = None
    break_after: int | None = None
    with_logprobs: bool = True
    thoughts: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    _resumed: asyncio.Event = field(default_factory=asyncio.Event)
    _loop: asyncio.AbstractEventLoop | None = None

    def reset(self) -> None:
        """As new, at the same address."""
        vars(self).update(vars(FakeServer(url=self.url)))

    def resume(self) -> None:
        """Lets the answers that pause go on."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._resumed.set)

    def refuse(self, status: int, message: str, **headers: str) -> None:
        """Answers the next completion with an error in OpenAI's form."""
        body = {"error": {"message": message, "type": "error", "code": None}}
        self.refusals.append(JSONResponse(body, status, headers={k.replace("_", "-"): v for k, v in headers.items()}))

    def answer(self, question: str) -> list[Entry]:
        found = self.answers.get(question, f"You said: {question}")
        return entries(found) if isinstance(found, str) else found

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[str]:
        """The answer in server-sent events; notes it when the page leaves before the end."""
        self._loop = asyncio.get_running_loop()
        answer = self.answer(body["messages"][-1]["content"])
        try:
            if self.thoughts:
                yield event(chunk({"reasoning_content": self.thoughts}, None))
            for n, token in enumerate(answer):
                if n == self.pause_after:
                    await self._resumed.wait()
                if n == self.break_after:
                    yield event({"error": {"message": "the model met its end"}})
                    return
                yield event(chunk({"content": token["token"]}, [token] if self.with_logprobs else None))
                await asyncio.sleep(0)
            yield event(chunk({}, None, "stop"))
            usage = {"prompt_tokens": 21, "completion_tokens": len(answer), "total_tokens": 21 + len(answer)}
            yield event({"choices": [], "usage": usage})
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.left.set()
            raise


def chunk(delta: dict[str, str], logprobs: list[Entry] | None, finish: str | None = None) -> dict[str, Any]:
    content = None if logprobs is None else {"content": logprobs}
    return {"choices": [{"index": 0, "delta": delta, "logprobs": content, "finish_reason": finish}]}


def event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


def rendered(messages: list[dict[str, str]]) -> dict[str, Any]:
    """ChatML, as the real template would write it, in tokens."""
    parts = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
    text = "".join([*parts, "<|im_start|>assistant\n"])
    pieces = re.findall(r"<\|\w+\|>| ?\w+|\n| +|[^\w\s]", text)
    return {"text": text, "tokens": [{"id": zlib.crc32(p.encode()) % 9000, "text": p} for p in pieces]}


def fake_app(server: FakeServer) -> FastAPI:
    app = FastAPI()
    add_page(app)

    def refusal(request: Request) -> Response | None:
        if server.key is None or request.headers.get("Authorization") == f"Bearer {server.key}":
            return None
        return JSONResponse({"error": {"message": "This key is not known."}}, 401)

    @app.get("/v1/models")
    def models(request: Request) -> Response:
        return refusal(request) or JSONResponse({"object": "list", "data": server.models})

    @app.post("/render")
    async def render(request: Request) -> Response:
        return refusal(request) or JSONResponse(rendered((await request.json())["messages"]))

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        body = await request.json()
        if refused := refusal(request):
            return refused
        server.requests.append(body)
        if server.refusals:
            return server.refusals.pop(0)
        return StreamingResponse(server.stream(body), media_type="text/event-stream")

    return app


@contextmanager
def running(server: FakeServer) -> Iterator[FakeServer]:
    """The server on a free port of this machine, in a thread of its own."""
    listening = socket.create_server(("127.0.0.1", 0))  # a browser that comes early waits in its queue
    uvicorn_server = uvicorn.Server(uvicorn.Config(fake_app(server), log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [listening]})
    thread.start()
    server.url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    try:
        yield server
    finally:
        uvicorn_server.should_exit = True
        thread.join()
        listening.close()
