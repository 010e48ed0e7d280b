"""The HTTP API of a service: rows in JSON, health, figures for Prometheus, and the drift page."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from jinja2 import Environment
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dream import __version__
from dream.errors import CheckpointError, DREAMError
from experiments.serve.batches import Batches, BusyError
from experiments.serve.metrics import CONTENT_TYPE, Requests, text
from experiments.serve.service import Asked, Operation, Service, asked_or_refused, together

PAGE = Path(__file__).with_name("page.html")
ROW = {
    "type": "object",
    "required": ["key"],
    "properties": {
        "key": {"anyOf": [{"type": "string"}, {"type": "integer"}], "description": "The stream."},
        "x": {"description": "Columns by name; null or an absent column was not observed."},
        "y": {"description": "Class or number of the row; of a forecaster the columns that are forecast."},
        "seq": {"type": "integer", "minimum": 1, "description": "Number of the row, rising with its key."},
    },
    "example": {"key": "pump-1", "x": {"pressure": 2.5, "flow": None}, "seq": 1},
}
SCHEMA = {"anyOf": [ROW, {"type": "array", "items": ROW}]}
BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": SCHEMA}}}}
MEANINGS: dict[Operation, str] = {
    "predict": "Predict a row, or forecast after the last one; nothing changes.",
    "learn": "Predict or score a row, then learn it, unless a row of its key and `seq` was learnt before.",
    "score": "Score a row; nothing changes.",
}
# a page that holds keys of clients runs nothing and loads nothing
SAFE = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"}


@dataclass(frozen=True)
class Limits:
    """Limits of the HTTP API."""

    body: int
    """Bytes of a body."""
    queue: int
    """Rows that wait."""
    seconds: float
    """Time for a body to arrive, and for its rows to be answered."""
    connections: int = 1000
    """Connections at a time."""


def make_app(service: Service, batches: Batches, limits: Limits, token: str | None) -> FastAPI:
    """The HTTP API; `token` is asked for everywhere but at /health, /docs and /openapi.json."""
    app = FastAPI(title="dream serve", version=__version__, redoc_url=None, redirect_slashes=False)
    requests = Requests()
    app.add_middleware(Counted, requests=requests)
    page = Environment(autoescape=True).from_string(PAGE.read_text(encoding="utf-8"))

    def require_token(request: Request) -> None:
        given = request.headers.get("authorization", "")
        if token is not None and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "`Authorization` must be `Bearer` and the token of the service.")

    def refuse_other_sites(request: Request) -> None:
        # a page of any site can let its reader's browser send a body here, whose answer it cannot see
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise HTTPException(403, "rows must not come from a page of another site.")

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> Response:
        return _json({"error": str(error.detail)}, error.status_code, error.headers)

    def rows_at(operation: Operation) -> Callable[[Request], Awaitable[Response]]:
        async def take(request: Request) -> Response:
            refuse_other_sites(request)
            require_token(request)
            return await _answered(request, operation, batches, limits)

        return take

    for operation, meaning in MEANINGS.items():
        app.post(f"/{operation}", summary=meaning, openapi_extra=BODY)(rows_at(operation))

    @app.get("/health", summary="Whether rows are taken and reach the disk.")
    async def health() -> Response:  # in no thread, which may all wait for a flush
        error = service.trouble if batches.defect is None else f"it ends: {batches.defect!r}"
        told = {"status": "failing" if error else "ok", "version": __version__, "error": error}
        return _json(told, 503 if error else 200)

    @app.get("/metrics", summary="Figures in Prometheus' text form.")
    def metrics(request: Request) -> Response:
        require_token(request)
        return Response(text(service, batches, requests), media_type=CONTENT_TYPE)

    @app.get("/drift", summary="The streams that moved most; in a browser as a page.")
    def drift(request: Request, key: str | None = None) -> Response:
        require_token(request)
        as_page = "text/html" in request.headers.get("accept", "")
        try:
            report = service.drift(key or None)
            status = 200
        except DREAMError as error:
            report, status = {"error": str(error)}, 503 if isinstance(error, CheckpointError) else 404
        if as_page:
            return Response(page.render(key=key or "", **report), status, SAFE, "text/html")
        return _json(report, status)

    return app


class Counted:
    """Counts the requests of an application, and their times; a path of a client's own counts as "other"."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self.app = app
        self.requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun, status = time.monotonic(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            path = scope.get("path", "") if "route" in scope or "endpoint" in scope else "other"
            self.requests.add(path, status, time.monotonic() - begun)


async def _answered(request: Request, operation: Operation, batches: Batches, limits: Limits) -> Response:
    """Answer of a body: one row, or a list of rows."""
    body = await _body(request, limits)
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body must be a row, or a list of rows, in JSON: {error}") from None
    rows = content if isinstance(content, list) else [content]
    if len(rows) > limits.queue:
        raise HTTPException(413, f"a body must have at most {limits.queue} rows; got {len(rows)}.")
    found = [asked_or_refused(operation, row) for row in rows]
    try:
        future = batches.submit([row for row in found if isinstance(row, Asked)])
    except BusyError as error:
        raise HTTPException(429, str(error), {"Retry-After": "1"}) from None
    try:
        answers = together(found, await asyncio.wait_for(asyncio.wrap_future(future), limits.seconds))
    except TimeoutError:
        raise HTTPException(
            503,
            f"the rows were not answered within {limits.seconds:g} s. Send them again, with the same `seq`.",
        ) from None
    fields = {name for answer in answers for name in answer}
    status = 503 if "retry" in fields else 400 if "error" in fields else 200
    return _json(answers if isinstance(content, list) else answers[0], status)


async def _body(request: Request, limits: Limits) -> bytes:
    parts = bytearray()

    async def read() -> None:
        async for part in request.stream():
            parts.extend(part)
            if len(parts) > limits.body:
                raise HTTPException(
                    413, f"a body must have at most {limits.body} bytes. Send fewer rows in each."
                )

    try:
        await asyncio.wait_for(read(), limits.seconds)
    except TimeoutError:
        raise HTTPException(408, f"a body must arrive within {limits.seconds:g} s.") from None
    except ClientDisconnect:
        raise HTTPException(400, "the client went before its body had come.") from None
    return bytes(parts)


def _json(content: Any, status: int = 200, headers: Any = None) -> Response:
    return Response(json.dumps(content, allow_nan=False), status, headers, "application/json")
