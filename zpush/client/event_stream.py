"""One event stream (SSE) as a connection: a GET whose answer does not end, over h11.

Rules. The server speaks, the client cannot: there are no acks, and a stream is left by waiting until the server ends
it, as it does with a client's old connection once it has a new one. A close event tells the code before the end. The
server writes a comment now and then; after silence_s without any byte the connection is dead. `retry:` is for browsers:
when to come back is told by the close code.
"""

from __future__ import annotations

import asyncio
import binascii
import ssl
from collections import deque

import h11

from zpush.client.address import Address
from zpush.client.event_parser import EventParser, ServerEvent
from zpush.client.events import Ended, Event, GoAway, Received, SecureToken
from zpush.client.limits import Limits
from zpush.client.refusal import BODY_S, MAX_BODY_BYTES, refused
from zpush.client.wire import Wire
from zpush.errors import MalformedMessage
from zpush.protocol.close import CUT, PROTOCOL_ERROR, TOO_BIG

_CONTENT_TYPE = b"text/event-stream"


class EventStream:
    """A Connection; made by open_event_stream."""

    def __init__(self, wire: Wire, limits: Limits) -> None:
        self._wire = wire
        self._limits = limits
        self._http = h11.Connection(h11.CLIENT)
        self._parser = EventParser(limits.message_bytes)
        self._events: deque[ServerEvent] = deque()
        self._end: Ended | None = None

    # ---- the request

    async def request(self, address: Address, token: str | None, last_id: str) -> None:
        """Raises Refused, or OSError where the other side does not answer with an event stream."""
        headers = [("Host", address.authority), ("Accept", "text/event-stream"), ("Cache-Control", "no-store")]
        if token is not None:
            headers.append(("Authorization", f"Bearer {token}"))
        if last_id and last_id.isprintable() and last_id == last_id.strip():  # what a header field may hold
            headers.append(("Last-Event-ID", last_id))
        fields = [(name.encode(), value.encode()) for name, value in headers]
        head = h11.Request(method=b"GET", target=address.target.encode(), headers=fields)
        self._wire.write(self._http.send(head) or b"")
        self._wire.write(self._http.send(h11.EndOfMessage()) or b"")
        answer = await self._answer()
        content_type = next((value for name, value in answer.headers if name == b"content-type"), b"")
        if answer.status_code != 200:
            raise refused(answer.status_code, answer.headers, await self._body())
        if content_type.partition(b";")[0].strip().lower() != _CONTENT_TYPE:
            raise ConnectionError("the answer is no event stream")

    async def _answer(self) -> h11.Response:
        while True:
            event = await self._next(self._limits.open_s)
            if isinstance(event, h11.Response):
                return event
            if event is None:
                raise ConnectionResetError("the connection was closed before an answer came")

    async def _body(self) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                while len(body) < MAX_BODY_BYTES and isinstance(event := await self._next(BODY_S), h11.Data):
                    body += event.data
        except OSError:  # a broken body, or (TimeoutError) enough of waiting: the status is what counts
            pass
        return bytes(body)

    async def _next(self, patience_s: float) -> h11.Event | None:
        """h11's next event; None at the end of the answer. Raises ConnectionError for what is no HTTP."""
        while True:
            try:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    self._http.receive_data(await self._wire.read(patience_s))
                    continue
            except h11.RemoteProtocolError as e:
                raise ConnectionError(f"not HTTP: {e}") from None
            if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed) or event is h11.PAUSED:
                return None
            assert isinstance(event, h11.Event)
            return event

    # ---- a Connection

    async def receive(self) -> Event:
        while True:
            while self._events:
                told = self._on_event(self._events.popleft())
                if told is not None:
                    return told
            if self._end is None:
                self._end = await self._read()
            else:
                return self._end

    async def _read(self) -> Ended | None:
        """More events; or the end, which comes after those that are there."""
        try:
            part = await self._next(self._limits.silence_s)
            if not isinstance(part, h11.Data):
                return Ended(CUT, "the stream ended without a close event")
            self._events.extend(self._parser.feed(bytes(part.data)))
        except TimeoutError:
            return Ended(CUT, "the server is silent")
        except ConnectionError:
            return Ended(CUT, "the stream was cut")
        except MalformedMessage as e:
            return Ended(TOO_BIG, e.reason)
        return None

    def ack(self, id: str) -> None:
        pass  # nothing can be said on an event stream

    def show(self, token: str) -> None:
        pass

    def leave(self, patience_s: float) -> None:
        self._wire.allow(patience_s)

    async def close(self) -> None:
        await self._wire.close()

    @staticmethod
    def _on_event(event: ServerEvent) -> Event | None:
        match event.name:
            case "push" | "message":
                return Received(event.id, event.data)
            case "binary":
                try:
                    return Received(event.id, binascii.a2b_base64(event.data, strict_mode=True))
                except ValueError:
                    return Ended(PROTOCOL_ERROR, "a binary event that is not base64")
            case "goaway":
                return GoAway()
            case "secure_token":
                return SecureToken(event.data)
            case "close":
                code = event.data
                return Ended(int(code) if code.isascii() and code.isdigit() and len(code) == 4 else CUT, "close event")
        return None  # of a kind that later servers may send


async def open_event_stream(
    address: Address, token: str | None, last_id: str, limits: Limits, ssl_context: ssl.SSLContext | None
) -> EventStream:
    """last_id: of the last message that came, for the server's information. Raises Refused, OSError, TimeoutError."""
    async with asyncio.timeout(limits.open_s):
        wire = await Wire.open(address, ssl_context)
        connection = EventStream(wire, limits)
        try:
            await connection.request(address, token, last_id)
        except BaseException:
            await wire.close()
            raise
    return connection
