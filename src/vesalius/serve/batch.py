"""Requests from a file, answers into a file: OpenAI's batch format, through the same endpoints on the same engine.

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {…}}                      a line in
    {"id": …, "custom_id": "a", "response": {"status_code": 200, "request_id": …, "body": {…}}, …}        a line out

Answers are written as they come, in any order. Started again with the same files, it goes on: what has an answer is
skipped, but for answers that say that the server failed. So is a line that was cut off when the process died.
"""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from vesalius.core.errors import UserError, VesaliusError
from vesalius.core.files import atomic_write, disk_full_is_told
from vesalius.serve.chat_completions import begin_chat
from vesalius.serve.completions import begin_completions
from vesalius.serve.embeddings import embed
from vesalius.serve.errors import ApiError, as_api_error
from vesalius.serve.exchange import Exchange
from vesalius.serve.notes import begin_notes
from vesalius.serve.protocol.base import Body
from vesalius.serve.protocol.chat import ChatRequest
from vesalius.serve.protocol.completions import CompletionRequest
from vesalius.serve.protocol.embeddings import EmbeddingRequest
from vesalius.serve.protocol.responses import ResponseRequest
from vesalius.serve.responses import begin_response
from vesalius.serve.service import Service
from vesalius.serve.strict_json import parse_json

OnProgress = Callable[[int], None]
"""Takes how many requests have an answer by now."""

Begin = Callable[[Service, Any], Awaitable[Exchange]]
EXCHANGES: dict[str, tuple[type[Body], Begin]] = {
    "/v1/chat/completions": (ChatRequest, begin_chat),
    "/v1/completions": (CompletionRequest, begin_completions),
    "/v1/responses": (ResponseRequest, begin_response),
}
EMBEDDINGS = "/v1/embeddings"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Requests of a batch: all, those that had an answer before, and of the others those that were refused."""

    total: int
    skipped: int
    failed: int


@dataclass(frozen=True)
class Batch:
    """A file of requests and a file of answers. `done` are the ids that have an answer."""

    source: Path
    target: Path
    total: int
    done: frozenset[str]

    @classmethod
    def open(cls, source: Path, target: Path) -> "Batch":
        """Checks all lines of `source`, and takes out of `target` what has to be answered again.

        UserError where there is no such file, a line is no request, or two have the same custom_id.
        """
        if source.resolve() == target.resolve():
            raise UserError(f"{source} is to be read and written: give another file for the answers")
        seen: set[str] = set()
        for number, request in _requests(source):
            if request["custom_id"] in seen:
                raise UserError(f"{source}, line {number}: custom_id {request['custom_id']!r} is there twice")
            seen.add(request["custom_id"])
        return cls(source, target, len(seen), frozenset(_answered(target)) & seen)

    def left(self) -> Iterator[dict[str, Any]]:
        """The requests that have no answer yet."""
        return (request for _, request in _requests(self.source) if request["custom_id"] not in self.done)


async def run_batch(service: Service, batch: Batch, *, in_flight: int, on_progress: OnProgress) -> Counts:
    """Answers what is left of a batch, `in_flight` requests at a time."""
    requests = batch.left()
    done, failed = len(batch.done), 0

    async def work(target: TextIO) -> None:
        nonlocal done, failed
        for request in requests:  # shared by all workers: each takes the next
            line = await _answer(service, request)
            if service.broken is not None:
                raise VesaliusError(f"the engine broke down: {service.broken!r}")
            with disk_full_is_told(batch.target):
                target.write(json.dumps(line) + "\n")
                target.flush()
            done += 1
            failed += line["response"]["status_code"] != 200
            on_progress(done)

    try:
        with batch.target.open("a", encoding="utf-8") as target:
            async with service, asyncio.TaskGroup() as workers:
                for _ in range(in_flight):
                    workers.create_task(work(target))
    except* VesaliusError as group:
        raise group.exceptions[0] from None
    return Counts(total=batch.total, skipped=len(batch.done), failed=failed)


async def _answer(service: Service, request: dict[str, Any]) -> dict[str, Any]:
    """The line for one request, also where it is refused."""
    notes = begin_notes(f"req_{secrets.token_hex(12)}")
    try:
        status, body = 200, await _body(service, request)
    except (ApiError, ValidationError, VesaliusError) as error:
        known = as_api_error(error)
        status, body = known.status_code, known.body
    return {
        "id": f"batch_req_{secrets.token_hex(12)}",
        "custom_id": request["custom_id"],
        "response": {"status_code": status, "request_id": notes.id, "body": body},
        "error": None,
    }


async def _body(service: Service, request: dict[str, Any]) -> dict[str, Any]:
    if request["url"] == EMBEDDINGS:
        return await embed(service, EmbeddingRequest.model_validate(request["body"]))
    kind, begin = EXCHANGES[request["url"]]
    body = kind.model_validate({**request["body"], "stream": None})
    return await (await begin(service, body)).whole()


def _requests(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and content of each line that is not blank. UserError for one that is no request."""
    if not source.is_file():
        raise UserError(f"no file {source}: give one with a request in each line")
    with source.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _checked(line, f"{source}, line {number}")


def _checked(line: bytes, where: str) -> dict[str, Any]:
    try:
        request = parse_json(line)
    except ApiError as error:
        raise UserError(f"{where}: {error.detail}") from error
    if not isinstance(request, dict) or not isinstance(request.get("custom_id"), str):
        raise UserError(f'{where}: expected an object with a "custom_id", a text of its own for each request')
    known = [*EXCHANGES, EMBEDDINGS]
    if request.get("method", "POST") != "POST" or request.get("url") not in known:
        got = f"{request.get('method')} {str(request.get('url'))[:100]}"
        raise UserError(f"{where}: got {got}, expected POST with one of {', '.join(known)}")
    if not isinstance(request.get("body"), dict):
        raise UserError(f'{where}: expected an object as "body", the request itself')
    return request


def _answered(target: Path) -> Iterator[str]:
    """The ids that have an answer in a file of answers, which is left with those alone.

    UserError where it holds something else: it might be anybody's file.
    """
    if not target.exists():
        return
    with target.open(encoding="utf-8", errors="replace", newline="\n") as file:
        lines = list(file)
    kept = []
    for number, line in enumerate(lines, 1):
        answer = _answer_in(line, f"{target}, line {number}", is_last=number == len(lines))
        if answer is not None and answer["response"]["status_code"] < 500 and answer["response"]["status_code"] != 429:
            kept.append(line)
            yield answer["custom_id"]
    if len(kept) < len(lines):
        atomic_write(target, "".join(kept))


def _answer_in(line: str, where: str, *, is_last: bool) -> dict[str, Any] | None:
    """None for a last line that was cut off."""
    if is_last and not line.endswith("\n"):
        return None
    try:
        answer = json.loads(line)
        if isinstance(answer["custom_id"], str) and isinstance(answer["response"]["status_code"], int):
            return answer
    except (ValueError, TypeError, KeyError):
        pass
    raise UserError(f"{where}: this is no answer of a batch: give a new file, or the one that was begun")
