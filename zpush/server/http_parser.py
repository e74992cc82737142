"""Reads HTTP/1.1 requests: bytes in, whole requests or one refusal out. Knows no socket and no clock.

Rules. llhttp (through httptools) refuses the request smuggling classics: Content-Length twice or beside
Transfer-Encoding, white space before a colon, bare LF, obs-fold, control characters. What it lets pass
is refused here: transfer codings other than chunked, any in HTTP/1.0, no Host or two, other versions,
CONNECT, heads without a bound. A body is refused before it comes wherever its head says enough.
An `Upgrade` is ignored and the body read (RFC 9110 §7.8: Java's client offers h2c with its first POST).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import httptools

from zpush.server.http_heads import KnownHeads
from zpush.server.http_message import HttpRequest, HttpResponse, Route, error_response, split_target

RETRY = b"Retry-After: 1\r\n"
IDLE, HEAD, BODY = range(3)  # between requests; reading a head; its body


@dataclass(frozen=True)
class HttpLimits:
    """Seconds are ticks of the server's sweep: a deadline passes up to one second late."""

    head_bytes: int = 8192
    head_fields: int = 64
    connections: int = 4096
    body_budget_bytes: int = 128 * 1024 * 1024  # bodies being read or answered, over all connections
    idle_s: int = 75  # above the usual 60 s of load balancers: they close first
    head_s: int = 10
    body_s: int = 60
    unread_s: int = 30
    linger_s: int = 2


class BodyBudget:
    """Body bytes in memory, over all connections of a server."""

    __slots__ = ("held_bytes", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0

    def take(self, size: int) -> bool:
        if self.held_bytes + size > self.limit_bytes:
            return False
        self.held_bytes += size
        return True

    def give(self, size: int) -> None:
        self.held_bytes -= size


class _Refused(Exception):
    """Raised inside a callback to stop the parser; `refusal` says why."""


class RequestReader:
    """One connection's reader. `ready` holds complete requests; each keeps its body in the budget until `release`.

    `refusal`: the connection's last answer, after those of what is ready; nothing more will be read.
    `closing`: the last of what is ready asked for the connection to end.
    `expects_continue`: the client waits for a 100; the reader's user clears it.
    """

    def __init__(
        self,
        route: Callable[[HttpRequest], Route | HttpResponse],
        max_body_bytes: int,
        limits: HttpLimits,
        budget: BodyBudget,
        heads: KnownHeads,
    ) -> None:
        self.state = IDLE
        self.ready: deque[tuple[HttpRequest, Route | HttpResponse]] = deque()
        self.refusal: HttpResponse | None = None
        self.closing = False
        self.expects_continue = False
        self._choose = route
        self._max_body_bytes = max_body_bytes
        self._max_head_bytes = limits.head_bytes
        self._max_fields = limits.head_fields
        self._budget = budget
        self._heads = heads
        self._framing_bytes = 0  # fed in a row with nothing to show for it: half a head, chunk lines, trailers
        self._replaying = False  # the parser is being fed a head of our own, not the client's
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._reset()

    def _reset(self) -> None:
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._fields = 0
        self._request: HttpRequest | None = None
        self._route: Route | HttpResponse | None = None
        self._body_limit = 0
        self._body: bytes | bytearray = b""
        self._upgrading = False

    def feed(self, data: bytes) -> None:
        if self.closing or self.refusal is not None:
            return
        idle, ready = self.state == IDLE, len(self.ready)
        if idle and self._take_known(data):
            return
        self._framing_bytes += len(data)
        self._parse(data)
        if idle and self.state == IDLE and len(self.ready) == ready + 1:
            request, route = self.ready[-1]
            if isinstance(route, Route):
                self._heads.learn(data, request)
        if self._framing_bytes > self._max_head_bytes and self.refusal is None:
            self.refuse(self._head_too_large())

    def _take_known(self, data: bytes) -> bool:
        """A whole request whose head was read before. Where anything speaks against it, the parser says what."""
        request = self._heads.request(data)
        if request is None:
            return False
        route, size = self._choose(request), request.length
        if isinstance(route, HttpResponse) or size > route.body_bytes or size > self._max_body_bytes:
            return False
        if not self._budget.take(size):
            return False
        self._framing_bytes = 0
        self.ready.append((request, route))
        return True

    def refuse(self, response: HttpResponse) -> None:
        """Ends the reading, with this answer."""
        self._drop_partial()
        self.refusal = response

    def release(self, request: HttpRequest) -> None:
        """The request was answered."""
        self._budget.give(len(request.body))

    def close(self) -> None:
        """The connection is gone. The parser holds this object: without the cycle nothing waits for the collector."""
        for request, _ in self.ready:
            self.release(request)
        self.ready.clear()
        self._drop_partial()
        self.closing = True
        self._parser = None

    def _drop_partial(self) -> None:
        self._budget.give(len(self._body))
        self._reset()

    def _parse(self, data: bytes) -> None:
        while self._parser is not None:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as e:
                data = data[e.args[0] :]
                self._replay()
                continue
            except httptools.HttpParserCallbackError as e:
                if not isinstance(e.__context__, _Refused):
                    raise
            except httptools.HttpParserError as e:
                if not self.closing:  # what follows a `Connection: close` is no error
                    self.refuse(error_response(400, "malformed", f"not HTTP/1.1: {e}"))
            return

    def _replay(self) -> None:
        """The parser stops at an offer to upgrade: a new one is told the same framing without the offer."""
        request = self._request
        assert request is not None
        framing = b"Transfer-Encoding: chunked\r\n" if request.chunked else b"Content-Length: %d\r\n" % request.length
        self._parser = httptools.HttpRequestParser(self)
        self._replaying = True
        self._upgrading = False
        self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")

    def _stop(self, response: HttpResponse) -> _Refused:
        self.refuse(response)
        return _Refused()

    # ---- httptools' callbacks

    def on_message_begin(self) -> None:
        if not self._replaying:
            self._reset()
            self.state = HEAD

    def on_url(self, part: bytes) -> None:
        if not self._replaying:
            self._target += part
            self._head_bytes += len(part)
            if self._head_bytes > self._max_head_bytes:
                raise self._stop(self._head_too_large())

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._replaying:
            return
        self._fields += 1
        self._head_bytes += len(name) + len(value) + 4
        if self._fields > self._max_fields or self._head_bytes > self._max_head_bytes:
            raise self._stop(self._head_too_large())
        if self._request is not None:
            return  # a trailer: counted, then ignored (RFC 9110 §6.5.1)
        name = name.lower()
        headers = self._headers
        if name not in headers:
            headers[name] = value
        elif name == b"host":
            raise self._stop(error_response(400, "malformed", "Host is given twice"))
        else:
            headers[name] += b", " + value

    def on_headers_complete(self) -> None:
        if self._replaying:
            self._replaying = False
            return
        parser = self._parser
        assert parser is not None
        method, version = parser.get_method(), parser.get_http_version()
        self._check_head(method, version)
        self._upgrading = parser.should_upgrade()
        try:
            path, query = split_target(self._target)
        except ValueError as e:
            raise self._stop(error_response(400, "malformed", str(e))) from None
        headers = self._headers
        self._request = request = HttpRequest(
            method.decode(),
            path,
            query,
            headers,
            http_1_0=version == "1.0",
            keep_alive=parser.should_keep_alive(),
            chunked=b"transfer-encoding" in headers,
            length=int(headers.get(b"content-length", 0)),  # digits only: the parser has checked
        )
        self._route = self._choose(request)
        self.state = BODY
        self._framing_bytes = 0
        if request.chunked or request.length:
            self._expect_body(request, self._route)

    def on_body(self, part: bytes) -> None:
        self._framing_bytes = 0
        if len(self._body) + len(part) > self._body_limit:
            raise self._stop(self._body_too_large())
        if not self._budget.take(len(part)):
            raise self._stop(error_response(503, "busy", "too many bodies are being received", extra=RETRY))
        if not self._body:
            self._body = part  # the usual case: one part, no copy
            return
        if isinstance(self._body, bytes):  # not a list of parts: chunks of one byte would cost fifty times their size
            self._body = bytearray(self._body)
        self._body += part

    def on_message_complete(self) -> None:
        if self._upgrading:
            return  # said by the parser that gives up; _replay goes on
        request, route = self._request, self._route
        assert request is not None and route is not None
        request.body = bytes(self._body)
        self.ready.append((request, route))
        self._reset()
        self._framing_bytes = 0
        self.state = IDLE
        self.closing = not request.keep_alive

    # ---- checks

    def _check_head(self, method: bytes, version: str) -> None:
        """What llhttp lets pass."""
        if version not in ("1.1", "1.0"):
            raise self._stop(error_response(505, "version", "HTTP/1.1 is spoken here"))
        if version == "1.1" and b"host" not in self._headers:
            raise self._stop(error_response(400, "malformed", "Host is missing"))
        if method == b"CONNECT":
            raise self._stop(error_response(405, "method_not_allowed", "this is not a proxy"))
        coding = self._headers.get(b"transfer-encoding")
        if coding is None:
            return
        if version == "1.0":
            raise self._stop(error_response(400, "malformed", "HTTP/1.0 has no Transfer-Encoding"))
        if coding.lower() != b"chunked":
            raise self._stop(error_response(501, "malformed", "the only transfer coding is chunked"))

    def _expect_body(self, request: HttpRequest, route: Route | HttpResponse) -> None:
        if isinstance(route, HttpResponse):
            raise self._stop(route)
        self._body_limit = min(route.body_bytes, self._max_body_bytes)
        if request.length > self._body_limit:
            raise self._stop(self._body_too_large())
        expect = request.headers.get(b"expect")
        if expect is None or request.http_1_0:
            return
        if expect.lower() != b"100-continue":
            raise self._stop(error_response(417, "malformed", "the only expectation met is 100-continue"))
        self.expects_continue = True

    def _head_too_large(self) -> HttpResponse:
        bounds = f"{self._max_head_bytes} bytes and {self._max_fields} fields"
        return error_response(431, "head_too_large", f"a head has at most {bounds}")

    def _body_too_large(self) -> HttpResponse:
        return error_response(413, "too_large", f"the body may have at most {self._body_limit} bytes here")
