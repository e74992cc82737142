"""`/metrics`, `/healthz` and `/readyz` of a `zpush process`, which has no API: processor.metrics_bind.

Rules. All its processors accept on one listener, and whichever answers, answers for all: everything is read from the
scoreboard that they share. The queue's lag is not asked here: any worker's `/metrics` has it. The guard is the API's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

from zpush.config import Settings, api_keys
from zpush.config.units import split_address
from zpush.scoreboard import Scoreboard
from zpush.server.api_context import RETRY_AFTER, json_response
from zpush.server.api_guard import Guard
from zpush.server.http import HttpServer
from zpush.server.http_message import TEXT, HttpRequest, HttpResponse, Route, error_response
from zpush.server.metrics import CONTENT_TYPE, Metrics

STOP_S = 1.0


@contextlib.asynccontextmanager
async def scraped(settings: Settings, scoreboard: Scoreboard, listener: socket.socket) -> AsyncIterator[None]:
    """Answers meanwhile. listener: listening. ConfigError where the keys cannot be read."""
    http = HttpServer(Scrape(settings, scoreboard))
    server = await asyncio.get_running_loop().create_server(
        http.protocol_factory, sock=listener, backlog=settings.server.backlog
    )
    try:
        yield
    finally:
        server.close()
        await http.stop(STOP_S)


class Scrape:
    """HttpServer's site."""

    cells = None  # not the API, whose answers are counted

    def __init__(self, settings: Settings, scoreboard: Scoreboard) -> None:
        self._scoreboard = scoreboard
        self._metrics = Metrics(scoreboard)
        self._guard = Guard(api_keys(settings), split_address(settings.processor.metrics_bind)[0])
        self._open: dict[str, Callable[[HttpRequest], HttpResponse]] = {
            "/healthz": self._alive,
            "/readyz": self._ready,
        }

    def __call__(self, request: HttpRequest) -> Route | HttpResponse:
        answer: Callable[[HttpRequest], HttpResponse | Awaitable[HttpResponse]] | None = self._open.get(request.path)
        if answer is None:
            refusal = self._guard.refuse(request)
            if refusal is not None:
                return refusal
            if request.path != "/metrics":
                return error_response(404, "not_found", "there are /metrics, /healthz and /readyz")
            answer = self._scrape
        if request.method not in ("GET", "HEAD"):
            return error_response(405, "method_not_allowed", "this path takes GET, HEAD", extra=b"Allow: GET, HEAD\r\n")
        return Route(answer)

    def _alive(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, b"ok\n", TEXT)

    def _ready(self, request: HttpRequest) -> HttpResponse:
        reason = self._reason()
        response = json_response({"ready": not reason, "reason": reason}, 503 if reason else 200)
        response.extra = RETRY_AFTER if reason else b""
        return response

    def _reason(self) -> str:
        rows = [row for row in self._scoreboard.live() if row.get("ready")]
        if not rows:
            return "no processor is ready"
        away = [part for part in ("registry", "queue") if not all(row.get(f"{part}_up") for row in rows)]
        return f"{' and '.join(away)} away" if away else ""

    async def _scrape(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, await self._metrics.render(), CONTENT_TYPE)
