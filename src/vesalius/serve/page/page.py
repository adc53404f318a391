"""The chat page's routes: `/` is the page, `/page/NAME` its styles and scripts, all read once and kept in memory.

The policy lets the page load scripts, styles and answers from this server only, puts it in no frame, and, where the
browser knows Trusted Types, forbids every way to make elements from text: what a model writes can't become code.
A file's ETag is its hash and browsers ask each time, so that a new version is never mixed with an old one.
Left out: compression (all files together are smaller than one photograph, and the server stands on this machine).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response

STATIC = Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One file as it goes out."""

    body: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, path: Path) -> "Asset":
        """The file at `path`, whose suffix is one of TYPES."""
        body = path.read_bytes()
        return cls(body=body, media_type=TYPES[path.suffix], etag=f'"{hashlib.sha256(body).hexdigest()[:32]}"')

    def response(self, known: str) -> Response:
        """The file, or 304 where `known`, the request's If-None-Match, names this very version."""
        headers = HEADERS | {"ETag": self.etag}
        if self.etag in {tag.strip().removeprefix("W/") for tag in known.split(",")}:
            return Response(status_code=304, headers=headers)
        return Response(self.body, media_type=self.media_type, headers=headers)


def page_router() -> APIRouter:
    """Routes of the page and its files; they are in no API description, for they are no part of the API."""
    router = APIRouter(include_in_schema=False)
    assets = {path.name: Asset.read(path) for path in STATIC.iterdir() if path.suffix in TYPES}
    index = assets.pop("index.html")

    @router.api_route("/", methods=["GET", "HEAD"])
    def page(request: Request) -> Response:
        return index.response(request.headers.get("If-None-Match", ""))

    @router.api_route("/page/{name}", methods=["GET", "HEAD"])
    def file(name: str, request: Request) -> Response:
        if name not in assets:
            raise HTTPException(404, f"the page has no file {name!r}")
        return assets[name].response(request.headers.get("If-None-Match", ""))

    return router


def add_page(app: FastAPI) -> None:
    """Gives `app` the chat page at `/`."""
    app.include_router(page_router())
