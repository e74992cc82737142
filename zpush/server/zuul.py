"""Zuul Push's own sender interface, `/push`, with its status codes in its order of checks.

Rules. As in Zuul: 405 for other methods, 401 without `X-CUSTOMER_ID`, 404 where the client is not
connected, 403 where a secure token is presented and wrong, then GET 200 (a presence check), 503 rate
limited, 204 empty body, 200 written to the socket, 500 not written. Unlike Zuul: "connected" means
anywhere in this region's cluster, not on this box; 503 with Retry-After also says that nobody can tell now,
as the registry is away or repairs itself; 400 a text body that is not UTF-8
(`Content-Type: application/octet-stream` sends it as binary). A secure token is checked against the client's
lease: nothing is stored (protocol/secure_token.py).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable

from zpush.errors import MalformedMessage, RegistryUnavailable
from zpush.protocol.message import Kind, Message, Outcome, check_id, check_payload, new_id
from zpush.server.api_context import ApiContext, ApiError
from zpush.server.direct import UNKNOWN, DirectPushes, direct_deadline_s
from zpush.server.http_message import HttpRequest, HttpResponse

CUSTOMER_ID = b"x-customer_id"
SECURE_TOKEN = b"x-zuul.push.secure.token"

_ANSWERS = {
    Outcome.DELIVERED: (200, "", ""),
    Outcome.ACKED: (200, "", ""),
    Outcome.OFFLINE: (404, "not_found", "this client is not connected"),
    Outcome.RATE_LIMITED: (503, "rate_limited", "this client had too many messages"),
    Outcome.DROPPED: (500, "dropped", "the client's connection did not take the message"),
}


class ZuulApi:
    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def present(self, request: HttpRequest) -> HttpResponse:
        """GET /push"""
        await self._check(request)
        return HttpResponse(200)

    def push(self, request: HttpRequest) -> Awaitable[HttpResponse]:
        """POST /push. What is delivered needs no check of its own: the road itself finds who is not connected."""
        if request.body and SECURE_TOKEN not in request.headers:
            return self._send(request)
        return self._send_checked(request)

    async def _send_checked(self, request: HttpRequest) -> HttpResponse:
        """An empty body or a token: the checks that come before it, then its own answer."""
        await self._check(request)
        return HttpResponse(204) if not request.body else await self._send(request)

    async def _send(self, request: HttpRequest) -> HttpResponse:
        context = self._context
        client_id = _identity(request)
        if not context.registry.up and not context.local.holds(client_id):
            raise RegistryUnavailable("the registry is away and this client is not connected here")
        direct = DirectPushes(context.tally)
        [copy] = direct.add(_push(request, client_id), (client_id,), direct_deadline_s())
        context.router.route([copy])
        outcome = await direct.then(lambda: copy.outcome)
        if outcome is Outcome.PENDING:
            raise RegistryUnavailable(UNKNOWN)
        status, code, message = _ANSWERS.get(outcome, (500, "internal", "the message was not written"))
        if status == 200:
            return HttpResponse(200)
        raise ApiError(status, code, message)

    async def _check(self, request: HttpRequest) -> None:
        """Connected somewhere in this region, and the token, if one is presented, is this connection's."""
        context = self._context
        client_id = _identity(request)
        token = request.headers.get(SECURE_TOKEN)
        if not token and context.local.holds(client_id):
            return
        found = await context.router.locate(client_id)
        if found is None or found[1].region != context.settings.peers.region:
            raise ApiError(404, "not_found", "this client is not connected")
        if token and not context.secure_tokens.matches(token.decode("latin-1"), client_id, found[0].epoch):
            raise ApiError(403, "forbidden", "this secure token is not the connection's")


def _identity(request: HttpRequest) -> str:
    value = request.headers.get(CUSTOMER_ID, b"")
    if not value:
        raise ApiError(401, "unauthorized", "X-CUSTOMER_ID must name the client")
    try:
        return check_id(value.decode(), "X-CUSTOMER_ID")
    except UnicodeDecodeError:
        raise MalformedMessage("X-CUSTOMER_ID is not valid UTF-8", "X-CUSTOMER_ID") from None


def _push(request: HttpRequest, client_id: str) -> Message:
    binary = request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == b"application/octet-stream"
    kind = Kind.BINARY if binary else Kind.TEXT
    check_payload(request.body, kind)
    now_ms = time.time_ns() // 1_000_000
    return Message(new_id(), client_id, request.body, kind, queued_ms=now_ms)
