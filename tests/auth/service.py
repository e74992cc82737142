"""A real HTTP service on a loopback port: it gives out keys, or decides as a hook. Its answers are set by the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from tests.server.raw_http import serving
from zpush.server.http_message import HttpRequest, HttpResponse, Route


class Service:
    """status, body: of the next answers. hold: answers wait while it is cleared."""

    def __init__(self) -> None:
        self.port = 0
        self.status = 200
        self.body = b"{}"
        self.extra = b""
        self.requests: list[HttpRequest] = []
        self.hold = asyncio.Event()
        self.hold.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/auth"

    @property
    def questions(self) -> list[dict[str, Any]]:
        return [json.loads(request.body) for request in self.requests]

    def says(self, **answer: Any) -> None:
        self.status, self.body = 200, json.dumps(answer).encode()

    def route(self, head: HttpRequest) -> Route:
        return Route(self._answer, 1 << 20)

    async def _answer(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(request)
        await self.hold.wait()
        return HttpResponse(self.status, self.body, extra=self.extra)


@contextlib.asynccontextmanager
async def service() -> AsyncIterator[Service]:
    it = Service()
    async with serving(it.route) as (_, it.port):
        try:
            yield it
        finally:
            it.hold.set()
