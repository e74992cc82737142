"""The HTTP API: which call is whose, and the errors they share. docs/api.md is its documentation.

Rules. A request is judged on its head: unknown or foreign callers, paths and methods are refused before
a body is read. `/healthz`, `/readyz` and the demo page are open; everything else is behind the guard.
A call answers with a response or raises a ZpushError, which fault() turns into one; anything else is a
defect: 500, and the traceback in the log.

Reading order: api_context.py, api_guard.py, this file, api_push.py, api_read.py, zuul.py, metrics.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from zpush.config import Settings, api_keys
from zpush.config.units import split_address
from zpush.errors import ZpushError
from zpush.protocol.push import body_bytes
from zpush.server.api_context import RETRY_AFTER, ApiContext, fault_response, json_response
from zpush.server.api_guard import Guard
from zpush.server.api_push import BATCH_BYTES, PushApi
from zpush.server.api_read import ReadApi
from zpush.server.command import command
from zpush.server.http_message import JSON, NDJSON, TEXT, HttpRequest, HttpResponse, Route, error_response
from zpush.server.metrics import CONTENT_TYPE, Metrics
from zpush.server.pages import load_pages
from zpush.server.zuul import ZuulApi

__all__ = ["Api", "ApiContext"]

Call = Callable[[HttpRequest], HttpResponse | Awaitable[HttpResponse]]
Methods = dict[str, Route]
_NEED_NO_TASK = (HttpResponse, asyncio.Future)


class Api:
    """HttpServer's site: the head of a request in, its route or its refusal out."""

    def __init__(self, context: ApiContext) -> None:
        self.cells = context.row.cells
        self._context = context
        settings = context.settings
        self.reload(settings)
        self._metrics = Metrics(context.scoreboard, context.lag)
        push, read, zuul = PushApi(context), ReadApi(context), ZuulApi(context)
        self._single = _route(push.push, body_bytes(settings.api.push_bytes))
        self._batch = _route(push.batch, BATCH_BYTES)
        self._open: dict[str, Methods] = {
            "/healthz": _reading(self._alive),
            "/readyz": _reading(self._ready),
        }
        if settings.embedded:
            self._open |= {path: {"GET": route, "HEAD": route} for path, route in load_pages().items()}
            self._open["/demo.json"] = _reading(self._demo)
        self._guarded: dict[str, Methods] = {
            "/v1/push": {"POST": self._single},
            "/v1/nodes": _reading(read.nodes),
            "/push": {"GET": _route(zuul.present), "POST": _route(zuul.push, settings.api.push_bytes)},
            "/metrics": _reading(self._scrape),
        }
        self._by_id: dict[str, Methods] = {
            "/v1/clients": {**_reading(read.client), "DELETE": _route(read.disconnect_client)},
            "/v1/users": {**_reading(read.user), "DELETE": _route(read.disconnect_user)},
        }

    def __call__(self, request: HttpRequest) -> Route | HttpResponse:
        path = request.path
        methods = self._open.get(path)
        if methods is None:
            refusal = self._guard.refuse(request)
            if refusal is not None:
                return refusal
            methods = self._guarded.get(path) or self._by_id.get(path.rpartition("/")[0])
            if methods is None:
                return error_response(404, "not_found", "there is no such path; see docs/api.md")
        route = methods.get(request.method)
        if route is None:
            allow = ", ".join(methods)
            return error_response(
                405, "method_not_allowed", f"this path takes {allow}", extra=f"Allow: {allow}\r\n".encode()
            )
        return self._push_route(request) if route is self._single else route

    def reload(self, settings: Settings) -> None:
        """Takes new keys up. ConfigError, and nothing changed, where they cannot be read."""
        self._guard = Guard(api_keys(settings), split_address(settings.api.bind)[0])

    def _push_route(self, request: HttpRequest) -> Route | HttpResponse:
        """One push or a batch, by its content type. Without keys anything else is refused: see api_guard.py."""
        content_type = request.headers.get(b"content-type", b"")
        if content_type != JSON:
            content_type = content_type.partition(b";")[0].strip().lower()
            if content_type == NDJSON:
                return self._batch
            if content_type != JSON and self._guard.keyless:
                return error_response(
                    415, "unsupported_type", "send Content-Type: application/json or application/x-ndjson"
                )
        return self._single

    def _alive(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, b"ok\n", TEXT)

    def _ready(self, request: HttpRequest) -> HttpResponse:
        reason = self._context.ready()
        response = json_response({"ready": not reason, "reason": reason}, 503 if reason else 200)
        response.extra = RETRY_AFTER if reason else b""
        return response

    def _demo(self, request: HttpRequest) -> HttpResponse:
        """What the demo page has to know of this server; nothing that is secret."""
        context = self._context
        facts = {
            "client_port": context.client_port,
            "auth": context.settings.auth.mode,
            "key": not self._guard.keyless,
            "command": command(),
        }
        return json_response(facts)

    async def _scrape(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, await self._metrics.render(), CONTENT_TYPE)


def _reading(call: Call) -> Methods:
    route = _route(call)
    return {"GET": route, "HEAD": route}


def _route(call: Call, limit_bytes: int = 0) -> Route:
    """A call whose ZpushErrors are answers."""

    def answer(request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        try:
            response = call(request)
        except ZpushError as e:
            return fault_response(e)
        return response if isinstance(response, _NEED_NO_TASK) else _awaited(response)

    return Route(answer, limit_bytes)


async def _awaited(response: Awaitable[HttpResponse]) -> HttpResponse:
    try:
        return await response
    except ZpushError as e:
        return fault_response(e)
