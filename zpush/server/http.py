"""HTTP/1.1 for the API port: connections and their server. http_parser.py reads, http_message.py writes.

Rules. Everything has a bound and an answer: connections, the time for a head and for a body, the time
that a client may leave its answers unread. Requests of one connection are answered one after the other,
in order: a sender's pushes keep theirs, and a connection has one request in work. What follows meanwhile
in the same read is parsed (httptools cannot stop), then reading pauses. A response is one write.
A connection that ends is half-closed first, and what still comes is thrown away for a moment: closing
with unread bytes would send RST, and the client would lose the very answer that says what was wrong.
Deadlines are ticks of one sweep a second over all connections, not timers: a request arms none.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Protocol

from zpush.log import event
from zpush.scoreboard import API_STATUSES, INDEX
from zpush.server.http_heads import KnownHeads
from zpush.server.http_message import HttpRequest, HttpResponse, Route, date_line, encode, error_response
from zpush.server.http_parser import IDLE, RETRY, BodyBudget, HttpLimits, RequestReader

_log = logging.getLogger("zpush.http")

MAX_TURN = 64  # pipelined requests answered before other connections have their turn
MAX_BODY_BYTES = 16 * 1024 * 1024  # whatever a route allows
HIGH_WATER_BYTES = 256 * 1024  # unread answers of one connection; past it nothing more is read
_COLUMNS = {int(s): INDEX[f"api_responses_{int(s) if s in API_STATUSES else 'other'}"] for s in HTTPStatus}


class Site(Protocol):
    """What is served: it says where a request goes, once its head is complete."""

    @property
    def cells(self) -> memoryview | None:
        """The scoreboard's row in which answers are counted; None: nowhere."""
        ...

    def __call__(self, request: HttpRequest) -> Route | HttpResponse: ...


class HttpServer:
    """For loop.create_server(server.protocol_factory, sock=…)."""

    def __init__(
        self,
        site: Site,
        max_body_bytes: int = MAX_BODY_BYTES,
        limits: HttpLimits | None = None,
    ) -> None:
        self.limits = limits or HttpLimits()
        self.budget = BodyBudget(self.limits.body_budget_bytes)
        self.now = 0  # ticks
        self.date = b""
        self.closing = False
        self.connections: set[HttpConnection] = set()
        self.answers: set[asyncio.Future[HttpResponse]] = set()  # the loop itself holds tasks weakly
        self.cells = site.cells
        self._site = site
        self._max_body_bytes = max_body_bytes
        self._heads = KnownHeads()
        self._all_gone = asyncio.Event()
        self._sweeper: asyncio.TimerHandle | None = None  # None: no connection, nothing to sweep

    def protocol_factory(self) -> HttpConnection:
        loop = asyncio.get_running_loop()
        reader = RequestReader(self._site, self._max_body_bytes, self.limits, self.budget, self._heads)
        connection = HttpConnection(self, reader, loop)
        if self._sweeper is None:
            self.date = date_line(time.time())
            self._sweeper = loop.call_later(1.0, self._sweep, loop)
        return connection

    async def stop(self, grace_s: float) -> None:
        """The listener is closed already. What has begun is answered within grace_s, then cut."""
        self.closing = True
        for connection in list(self.connections):
            connection.leave()
        try:
            async with asyncio.timeout(grace_s):
                while self.connections:
                    self._all_gone.clear()
                    await self._all_gone.wait()
        except TimeoutError:
            event(_log, "API connections are cut", logging.WARNING, connections=len(self.connections), grace_s=grace_s)
        for connection in list(self.connections):
            connection.abort()
        for answer in self.answers:
            answer.cancel()
        await asyncio.gather(*self.answers, return_exceptions=True)
        if self._sweeper is not None:
            self._sweeper.cancel()

    def forget(self, connection: HttpConnection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._all_gone.set()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now += 1
        self.date = date_line(time.time())
        for connection in list(self.connections):
            connection.tick()
        self._sweeper = loop.call_later(1.0, self._sweep, loop) if self.connections else None


class HttpConnection(asyncio.Protocol):
    """One sender's connection."""

    def __init__(self, server: HttpServer, reader: RequestReader, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._reader = reader
        self._loop = loop
        self._transport: asyncio.Transport
        self._patience_s = (server.limits.idle_s, server.limits.head_s, server.limits.body_s)
        self._state = IDLE  # the reader's, when the deadline was set
        self._deadline = 0  # a tick
        self._busy: HttpRequest | None = None  # waits for its answer
        self._unread = False  # the client leaves its answers unread
        self._paused = False  # reading is
        self._eof = False
        self._ended = False  # the last answer is written

    # ---- transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no subclass of asyncio.Transport
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=HIGH_WATER_BYTES // 4)
        server = self._server
        full = len(server.connections) >= server.limits.connections
        server.connections.add(self)
        self._deadline = server.now + server.limits.head_s  # who connects has something to say
        if full or server.closing:
            self._refuse(error_response(503, "busy", "this worker takes no more connections", extra=RETRY))

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._reader.close()
        self._server.forget(self)

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        reader = self._reader
        reader.feed(data)
        if reader.expects_continue:
            reader.expects_continue = False
            if self._busy is None and not reader.ready:  # else the client goes on without, after a while
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._busy is None:
            self._pump()
        if reader.ready and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        elif reader.state != self._state:
            self._rearm()

    def eof_received(self) -> bool:
        """True keeps our half open: a client may send its request and shut its side down."""
        self._eof = True
        return not self._ended and (self._busy is not None or bool(self._reader.ready))

    def pause_writing(self) -> None:
        self._unread = True
        self._deadline = self._server.now + self._server.limits.unread_s
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._unread = False
        if self._ended:
            self._deadline = self._server.now + self._server.limits.linger_s + 1
        elif self._busy is None:
            self._pump()

    # ---- what the server asks for

    def tick(self) -> None:
        """A second has passed."""
        if self._server.now < self._deadline:
            return
        if self._unread or self._ended:
            self._transport.abort()
        elif self._busy is not None or self._reader.ready:
            self._rearm()  # it is our turn, not the client's
        elif self._reader.state == IDLE:
            self._transport.close()
        else:
            self._refuse(error_response(408, "timeout", "the request did not arrive in time"))

    def leave(self) -> None:
        """The server stops: an idle connection closes now, any other after its answers."""
        if self._busy is None and not self._reader.ready and self._reader.state == IDLE:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    # ---- answers

    def _pump(self) -> None:
        """Answers what is ready, in order, until one has to be waited for or the turn is over."""
        reader = self._reader
        turns = 0
        while reader.ready and not (self._busy or self._unread or self._ended):
            if turns == MAX_TURN:
                self._loop.call_soon(self._pump)
                return
            turns += 1
            request, route = reader.ready.popleft()
            answer = route if isinstance(route, HttpResponse) else _ask(request, route)
            if isinstance(answer, HttpResponse):
                self._write(request, answer)
            else:
                self._wait(request, answer)
        if self._busy or self._unread or self._ended:
            return
        if reader.refusal is not None:
            self._write(None, reader.refusal)
        elif self._paused:
            self._paused = False
            self._rearm()
            self._transport.resume_reading()

    def _wait(self, request: HttpRequest, answer: Awaitable[HttpResponse]) -> None:
        self._busy = request
        future = answer if isinstance(answer, asyncio.Future) else asyncio.ensure_future(answer)
        self._server.answers.add(future)
        future.add_done_callback(self._answered)

    def _answered(self, future: asyncio.Future[HttpResponse]) -> None:
        self._server.answers.discard(future)
        request, self._busy = self._busy, None
        if future.cancelled():
            answer = error_response(503, "unavailable", "the server is shutting down", extra=RETRY)
        elif (error := future.exception()) is not None:
            answer = _internal_error(error)
        else:
            answer = future.result()
        self._write(request, answer)
        self._pump()

    def _write(self, request: HttpRequest | None, response: HttpResponse) -> None:
        """One answer. request: None for a refusal, which ends the connection."""
        if request is not None:
            self._reader.release(request)
        if self._ended or self._transport.is_closing():
            return
        leaving = (self._eof or self._server.closing) and not self._reader.ready
        last = request is None or not request.keep_alive or leaving
        self._transport.write(encode(response, self._server.date, request, not last))
        if self._server.cells is not None:
            self._server.cells[_COLUMNS[response.status]] += 1
        if last:
            self._end()
        elif not self._unread:
            self._rearm()

    def _refuse(self, response: HttpResponse) -> None:
        self._reader.refuse(response)
        self._pump()

    def _end(self) -> None:
        """Half-closes; the client's last bytes are thrown away until it closes or linger_s is over."""
        self._ended = True
        self._reader.close()
        if self._eof:
            self._transport.close()
            return
        if not self._unread:
            self._deadline = self._server.now + self._server.limits.linger_s + 1
        self._transport.write_eof()
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _rearm(self) -> None:
        self._state = self._reader.state
        self._deadline = self._server.now + self._patience_s[self._state]


def _ask(request: HttpRequest, route: Route) -> HttpResponse | Awaitable[HttpResponse]:
    try:
        return route.answer(request)
    except Exception as e:  # noqa: BLE001  the outermost frame of a request: told to the log and to the client
        return _internal_error(e)


def _internal_error(error: BaseException) -> HttpResponse:
    _log.error("an API call failed", exc_info=error)
    return error_response(500, "internal", "the server failed; its log says why")
