"""HTTP requests and responses of the API port as values; the wire form of a response.

Rules. A request's header names are lower-case bytes, values are bytes as sent; a repeated header is
joined with ", " (RFC 9110 §5.3), so that a second Authorization can never be the one that is believed.
A response is written once, whole, with its length: nothing is streamed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus

import httptools
import msgspec

from zpush.protocol.push import error_body

JSON = b"application/json"
NDJSON = b"application/x-ndjson"
TEXT = b"text/plain; charset=utf-8"

_STATUS_LINES = {s.value: b"HTTP/1.1 %d %s\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}
_BODILESS = frozenset((204, 304))


class HttpRequest(msgspec.Struct, eq=False):
    """path: as sent, still percent-encoded, without the query. chunked, length: what the head says about the body."""

    method: str
    path: str
    query: str
    headers: dict[bytes, bytes]
    http_1_0: bool
    keep_alive: bool
    chunked: bool
    length: int
    body: bytes = b""


class HttpResponse(msgspec.Struct, eq=False):
    """extra: further header lines, each with its CRLF; constants of the program, never a client's input."""

    status: int
    body: bytes = b""
    content_type: bytes = JSON
    extra: bytes = b""


class Route:
    """Where a request goes, chosen on its head: who answers it, and how many body bytes it may have."""

    __slots__ = ("answer", "body_bytes")

    def __init__(self, answer: Callable[[HttpRequest], HttpResponse | Awaitable[HttpResponse]], body_bytes: int = 0):
        self.answer = answer
        self.body_bytes = body_bytes


def split_target(target: bytes) -> tuple[str, str]:
    """Origin-form, absolute-form or * (RFC 9112 §3.2) as (path, query); ValueError for anything else."""
    if not target.startswith(b"/") and target != b"*":
        try:
            url = httptools.parse_url(target)
        except httptools.HttpParserInvalidURLError:
            raise ValueError("the request target cannot be read") from None
        if url.schema not in (b"http", b"https"):
            raise ValueError("the request target must be a path")
        target = (url.path or b"/") + (b"?" + url.query if url.query else b"")
    path, _, query = target.decode("ascii").partition("?")
    return path, query


def error_response(status: int, code: str, message: str, field: str = "", extra: bytes = b"") -> HttpResponse:
    """The API's error shape, also for what fails before a request reaches the API."""
    return HttpResponse(status, error_body(code, message, field), JSON, extra)


def encode(response: HttpResponse, date: bytes, request: HttpRequest | None, keep_alive: bool) -> bytes:
    """The bytes of a response. date: a whole Date line. request: None where its head could not be read."""
    if not keep_alive:
        connection = b"Connection: close\r\n"
    elif request is not None and request.http_1_0:
        connection = b"Connection: keep-alive\r\n"
    else:
        connection = b""
    line = _STATUS_LINES[response.status]
    if response.status in _BODILESS:
        return b"%s%s%s%s\r\n" % (line, date, response.extra, connection)
    body = b"" if request is not None and request.method == "HEAD" else response.body
    length = b"\r\nContent-Length: %d\r\n" % len(response.body)
    return b"".join(
        (line, date, b"Content-Type: ", response.content_type, length, response.extra, connection, b"\r\n", body)
    )


def date_line(unix_s: float) -> bytes:
    """RFC 9110 §6.6.1; made once a second, not once a response."""
    return b"Date: %s\r\n" % formatdate(unix_s, usegmt=True).encode()
