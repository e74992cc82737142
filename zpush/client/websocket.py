"""One WebSocket connection (RFC 6455), over wsproto.

Rules. wsproto knows the frames, this file what they mean: zpush.v1 messages, or zpush.raw payloads in which only the
text `_CLOSE_` has a meaning. Pings are answered. After silence_s without a byte the server is pinged, after PONG_S more
the connection is dead: a network may be gone without telling.
"""

from __future__ import annotations

import asyncio
import ssl

from wsproto import ConnectionType, WSConnection, events
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import RemoteProtocolError

from zpush.client.address import Address
from zpush.client.events import Ended, Event, GoAway, Received, Refused, Renewed, SecureToken
from zpush.client.limits import Limits
from zpush.client.refusal import BODY_S, MAX_BODY_BYTES, printable, refused
from zpush.client.wire import Wire
from zpush.errors import MalformedMessage
from zpush.protocol import envelope
from zpush.protocol.close import CUT, GOING_AWAY_DONE, PROTOCOL_ERROR, TOO_BIG

V1, RAW = "zpush.v1", "zpush.raw"
PONG_S = 10.0
MAX_DELAY_MS = 86_400_000  # of a go-away; a client waits much less anyway
_RAW_GO_AWAY = envelope.RAW_GO_AWAY.decode()


class WebSocket:
    """A Connection; made by open_websocket."""

    def __init__(self, wire: Wire, protocol: str, limits: Limits, secure_token: bool) -> None:
        self._wire = wire
        self._protocol = protocol
        self._limits = limits
        self._awaits_secure_token = secure_token
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._message = bytearray()  # what has come of one
        self._pinged = False
        self._leaving = False

    # ---- the opening handshake

    async def shake_hands(self, address: Address, token: str | None) -> None:
        """Raises Refused, or OSError where the other side speaks no WebSocket."""
        headers = [(b"Authorization", b"Bearer " + token.encode())] if token is not None else []
        request = Request(address.authority, address.target, extra_headers=headers, subprotocols=[self._protocol])
        self._wire.write(self._ws.send(request))
        while True:
            for event in self._ws.events():
                if isinstance(event, AcceptConnection):
                    self._check_protocol(event.subprotocol)
                    return
                if isinstance(event, RejectConnection):
                    raise await self._refusal(event)
            await self._read_head()

    def _check_protocol(self, negotiated: str | None) -> None:
        if negotiated != self._protocol and self._protocol == V1:
            raise Refused(426, f"the server does not speak {V1}, or something in between does not let it through")

    async def _read_head(self) -> None:
        data = await self._wire.read(self._limits.open_s)
        if not data:
            raise ConnectionResetError("the connection was closed during the opening handshake")
        try:
            self._ws.receive_data(data)
        except (RemoteProtocolError, UnicodeDecodeError) as e:  # the latter where a header is not ASCII
            raise ConnectionError(f"not a WebSocket server: {e}") from None

    async def _refusal(self, answer: RejectConnection) -> Refused:
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                while len(body) < MAX_BODY_BYTES:
                    for event in self._ws.events():
                        if isinstance(event, RejectData):
                            body += event.data
                            if event.body_finished:
                                return refused(answer.status_code, answer.headers, bytes(body))
                    await self._read_head()
        except OSError:  # the end, which is how some bodies end; or (TimeoutError) enough of waiting
            pass
        return refused(answer.status_code, answer.headers, bytes(body))

    # ---- a Connection

    async def receive(self) -> Event:
        while True:
            for event in self._ws.events():
                told = self._on_event(event)
                if told is not None:
                    return told
            try:
                data = await self._wire.read(PONG_S if self._pinged else self._limits.silence_s)
            except TimeoutError:
                if self._pinged or self._leaving:
                    return Ended(CUT, "the server is silent")
                self._pinged = True
                self._send(Ping())
                continue
            if not data:
                return Ended(CUT, "the connection was cut")
            self._pinged = False
            self._ws.receive_data(data)

    def ack(self, id: str) -> None:
        if id and self._protocol == V1 and self._wire.roomy:
            self._send(TextMessage(envelope.ack(id).decode()))

    def show(self, token: str) -> None:
        if self._protocol == V1:
            self._send(TextMessage(envelope.auth(token).decode()))

    def leave(self, patience_s: float) -> None:
        self._leaving = True
        self._send(CloseConnection(GOING_AWAY_DONE))
        self._wire.allow(patience_s)

    async def close(self) -> None:
        self._send(CloseConnection(GOING_AWAY_DONE))
        await self._wire.close()

    def _send(self, event: events.Event) -> None:
        if self._ws.state is ConnectionState.OPEN:
            self._wire.write(self._ws.send(event))

    # ---- what arrives

    def _on_event(self, event: events.Event) -> Event | None:
        if isinstance(event, TextMessage | BytesMessage):
            return self._on_part(event)
        if isinstance(event, Ping) and self._wire.roomy:
            self._send(event.response())
        elif isinstance(event, CloseConnection):
            return self._on_close(event)
        return None

    def _on_close(self, event: CloseConnection) -> Ended:
        """The server's close frame; or wsproto's complaint about a broken frame, which the server gets to hear."""
        if self._ws.state in (ConnectionState.REMOTE_CLOSING, ConnectionState.OPEN):
            self._wire.write(self._ws.send(event.response()))
        return Ended(int(event.code), printable(event.reason or ""))

    def _fail(self, code: int, reason: str) -> Ended:
        self._send(CloseConnection(code, reason))
        return Ended(code, reason)

    def _on_part(self, event: TextMessage | BytesMessage) -> Event | None:
        self._message += event.data.encode() if isinstance(event, TextMessage) else event.data
        if len(self._message) > self._limits.message_bytes:
            return self._fail(TOO_BIG, f"a message of more than {self._limits.message_bytes} bytes")
        if not event.message_finished:
            return None
        whole = bytes(self._message)
        self._message = bytearray()
        if self._protocol == V1:
            return self._on_v1(whole)
        return self._on_raw(whole.decode() if isinstance(event, TextMessage) else whole)

    def _on_raw(self, message: str | bytes) -> Event:
        if message == _RAW_GO_AWAY:
            return GoAway()
        first, self._awaits_secure_token = self._awaits_secure_token, False
        return (_secure_token(message) if first else None) or Received("", message)

    def _on_v1(self, message: bytes) -> Event | None:
        try:
            told = envelope.decode(message)
        except MalformedMessage as e:
            return self._fail(PROTOCOL_ERROR, f"not {V1}: {e.reason}")
        match told:
            case envelope.Push(id, data):
                return Received(id, data)
            case envelope.GoAway(reason, reconnect_in_ms):
                return GoAway(reason, min(max(0, reconnect_in_ms), MAX_DELAY_MS) / 1000)
            case envelope.SecureToken(token):
                return SecureToken(token)
            case envelope.Authenticated():
                return Renewed()
        return None  # of a kind that later servers may send


def _secure_token(message: str | bytes) -> SecureToken | None:
    """None where the first message of a raw connection is a payload: this server gives no tokens."""
    try:
        told = envelope.decode(message)
    except MalformedMessage:
        return None
    return SecureToken(told.token) if isinstance(told, envelope.SecureToken) else None


async def open_websocket(
    address: Address,
    token: str | None,
    protocol: str,
    limits: Limits,
    ssl_context: ssl.SSLContext | None,
    secure_token: bool,
) -> WebSocket:
    """protocol: V1 or RAW. secure_token: the address asks for one. Raises Refused, OSError, TimeoutError."""
    async with asyncio.timeout(limits.open_s):
        wire = await Wire.open(address, ssl_context)
        connection = WebSocket(wire, protocol, limits, secure_token)
        try:
            await connection.shake_hands(address, token)
        except BaseException:
            await wire.close()
            raise
    return connection
