"""The opening handshake: what a request on the client port wants, whether it may have it, and the bytes that answer.

Rules. Sans-IO: values in, values or a Refusal out. A request goes through these steps; the first that fails answers:

    parse(head, peer)        one well-formed head                                   400
    classify(request)        which path 404, which method 405, a whole upgrade      400 or 426
    Origins.check(request)   whose page asks                                        400
    negotiate(request)       which subprotocol the connection speaks                never fails
    authentication           (zpush/auth) from find_token and the query             401
    accept_response, event_stream_head, preflight_response, http_response, or refusal_response

HTTP/1.0 is refused for upgrades only (RFC 6455 §4.1): load balancers check health with it, and nginx speaks it to
what is behind it unless told otherwise, event streams included. docs/handshake.md lists every refusal.
"""

from __future__ import annotations

import binascii
import enum
import hashlib
import http
from collections.abc import Sequence

import msgspec

from zpush.protocol.head import Refusal, Request, malformed, parse
from zpush.protocol.origin import Origins, host_name

__all__ = [
    "EVENT_STREAM",
    "HTTP",
    "PREFLIGHT",
    "RAW",
    "TOKEN_PREFIX",
    "V1",
    "WEBSOCKET",
    "Origins",
    "Refusal",
    "Request",
    "RequestKind",
    "accept_response",
    "classify",
    "event_stream_head",
    "find_token",
    "host_name",
    "http_response",
    "last_event_id",
    "malformed",
    "negotiate",
    "parse",
    "preflight_response",
    "refusal_response",
    "unauthorized",
    "unavailable",
]

RAW, V1 = b"zpush.raw", b"zpush.v1"  # subprotocols
TOKEN_PREFIX = b"zpush.token."
MAX_EVENT_ID_BYTES = 255  # message.MAX_ID_BYTES: what came back from a client is no longer than what was sent
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
_UPGRADE_TO = (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"))


class RequestKind(enum.Enum):
    """What a request wants: an open connection of either kind, a plain HTTP answer, or a CORS preflight's 204."""

    WEBSOCKET = 1
    EVENT_STREAM = 2
    HTTP = 3
    PREFLIGHT = 4


WEBSOCKET, EVENT_STREAM, HTTP, PREFLIGHT = RequestKind  # Python 3.11 takes 0.2 µs for an enum's attribute
_ROUTES = {
    "/ws": (WEBSOCKET, ("GET",)),
    "/sse": (EVENT_STREAM, ("GET", "OPTIONS")),
    "/healthz": (HTTP, ("GET", "HEAD")),
    "/healthcheck": (HTTP, ("GET", "HEAD")),
    "/readyz": (HTTP, ("GET", "HEAD")),
}


def classify(request: Request) -> RequestKind:
    """What the request wants, with all that its kind demands fulfilled; else Refusal."""
    route = _ROUTES.get(request.path)
    if route is None:
        raise Refusal(404, "not_found", "no such path: clients connect to /ws or /sse")
    kind, methods = route
    if request.method not in methods:
        raise Refusal(405, "method", f"{request.path} takes {' or '.join(methods)}", (("Allow", ", ".join(methods)),))
    if request.headers.get(b"content-length", b"0").strip(b"0") or b"transfer-encoding" in request.headers:
        raise malformed(f"a {request.method} with a body")
    if kind is WEBSOCKET:
        _check_upgrade(request)
    elif request.method == "OPTIONS":
        return PREFLIGHT
    return kind


def _check_upgrade(request: Request) -> None:
    """RFC 6455 §4.2.1, in the order that tells the most: first whether it is an upgrade at all, then its version."""
    if not request.http11:
        raise malformed("an upgrade needs HTTP/1.1 (nginx: proxy_http_version 1.1)")
    if not request.lists(b"upgrade", b"websocket"):
        reason = "this path speaks WebSocket: no 'Upgrade: websocket' (a proxy in between may have removed it)"
        raise Refusal(426, "version", reason, _UPGRADE_TO)
    if not request.lists(b"connection", b"upgrade"):
        raise malformed("no 'Connection: Upgrade'")
    if request.headers.get(b"sec-websocket-version") != b"13":
        raise Refusal(426, "version", "only WebSocket version 13 (RFC 6455) is spoken here", _UPGRADE_TO)
    if not _is_key(request.headers.get(b"sec-websocket-key", b"")):
        raise malformed("Sec-WebSocket-Key must be 16 bytes in base64")


def _is_key(key: bytes) -> bool:
    try:
        return len(key) == 24 and len(binascii.a2b_base64(key, strict_mode=True)) == 16
    except binascii.Error:
        return False


def negotiate(request: Request) -> bytes:
    """V1, RAW, or b"" where neither was offered (then messages are as in RAW). The client's order decides.

    A token offered as a subprotocol is never chosen, so it never comes back in an answer.
    """
    for name in _offered(request):
        if name == V1 or name == RAW:
            return name
    return b""


def _offered(request: Request) -> list[bytes]:
    value = request.headers.get(b"sec-websocket-protocol")
    return [name.strip(b" \t") for name in value.split(b",")] if value else []


def find_token(request: Request, cookie: bytes, query: bool) -> bytes | None:
    """The first of: Authorization: Bearer, a subprotocol, the cookie of that name, `?token=` where query is True."""
    scheme, _, token = request.header(b"authorization").partition(b" ")
    if scheme.lower() == b"bearer" and (token := token.strip(b" ")):
        return token
    for name in _offered(request):
        if name.startswith(TOKEN_PREFIX) and len(name) > len(TOKEN_PREFIX):
            return name[len(TOKEN_PREFIX) :]
    if cookie and (token := _cookie(request, cookie)):
        return token
    value = request.param("token") if query else None
    return value.encode() if value else None


def _cookie(request: Request, wanted: bytes) -> bytes:
    value = request.headers.get(b"cookie")
    if value is None or wanted not in value:
        return b""
    for pair in value.split(b";"):
        name, _, content = pair.strip(b" \t").partition(b"=")
        if name == wanted:
            return content.strip(b'"')
    return b""


def last_event_id(request: Request) -> str | None:
    """The id of the last message an EventSource got before it came back by itself; None on a first connection."""
    value = request.headers.get(b"last-event-id")
    if not value or len(value) > MAX_EVENT_ID_BYTES:
        return None
    return value.decode(errors="replace")


def unauthorized() -> Refusal:
    """The answer to errors.Unauthorized: what exactly was wrong stays in the log."""
    return Refusal(401, "unauthorized", "no token, or not a valid one", (("WWW-Authenticate", "Bearer"),))


def unavailable(result: str, reason: str, retry_after_s: int) -> Refusal:
    """503. result: full or draining."""
    return Refusal(503, result, reason, (("Retry-After", str(retry_after_s)),))


# Answers. An answer other than 101 and the event stream's head is the connection's last.

_PHRASES = {status.value: status.phrase.encode() for status in http.HTTPStatus}
_CLOSE = (("Connection", "close"),)


def accept_response(request: Request, subprotocol: bytes) -> bytes:
    """The 101. subprotocol: negotiate's answer."""
    digest = hashlib.sha1(request.headers[b"sec-websocket-key"] + _GUID, usedforsecurity=False).digest()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%b\r\n"
    ) % (
        binascii.b2a_base64(digest, newline=False),
        b"Sec-WebSocket-Protocol: %b\r\n" % subprotocol if subprotocol else b"",
    )


def event_stream_head(origin: bytes, retry_ms: int = 0) -> bytes:
    """The event stream's head and its `retry:`, if any. origin: Origins.check's answer.

    Its end is the connection's: a client behind HTTP/1.0 has to understand it as well. no-store and
    X-Accel-Buffering keep proxies from collecting events before they pass them on.
    """
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\n"
        b"Connection: close\r\n%b\r\n%b" % (_cors(origin), b"retry: %d\n\n" % retry_ms if retry_ms else b"")
    )


def preflight_response(origin: bytes) -> bytes:
    """What fetch with an Authorization header asks before an event stream; EventSource itself never asks."""
    return (
        b"HTTP/1.1 204 No Content\r\n%bAccess-Control-Allow-Methods: GET\r\n"
        b"Access-Control-Allow-Headers: Authorization, Cache-Control, Last-Event-ID\r\nAccess-Control-Max-Age: 600\r\n"
        b"Connection: close\r\n\r\n" % _cors(origin)
    )


def http_response(
    status: int,
    body: bytes,
    headers: Sequence[tuple[str, str]] = (),
    *,
    content_type: str = "text/plain; charset=utf-8",
    head_only: bool = False,
    origin: bytes = b"",
) -> bytes:
    """A whole answer, after which the connection closes. head_only: the request was a HEAD. 204 has no body."""
    fields = [*headers, *_CLOSE, ("Cache-Control", "no-store")]
    if status != 204:
        fields += [("Content-Type", content_type), ("Content-Length", str(len(body)))]
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields).encode("latin-1")
    return b"HTTP/1.1 %d %b\r\n%b%b\r\n%b" % (
        status,
        _PHRASES[status],
        lines,
        _cors(origin),
        b"" if head_only or status == 204 else body,
    )


def refusal_response(refusal: Refusal, *, origin: bytes = b"", head_only: bool = False) -> bytes:
    """The refusal, in the form of the API's errors.

    origin: Origins.check's answer, for event streams: to an EventSource of another origin an answer without CORS
    headers is a broken network, and it would come back for ever instead of reporting the error.
    """
    body = msgspec.json.encode({"error": {"code": refusal.result, "message": refusal.reason}}) + b"\n"
    return http_response(
        refusal.status, body, refusal.headers, content_type="application/json", head_only=head_only, origin=origin
    )


def _cors(origin: bytes) -> bytes:
    if not origin:
        return b""
    return b"Access-Control-Allow-Origin: %b\r\nAccess-Control-Allow-Credentials: true\r\nVary: Origin\r\n" % origin
