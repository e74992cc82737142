"""Many clients at little cost: the WebSocket by hand on asyncio's transports, and what they got as numbers.

Rules. A payload names its client or user, its priority and its number, so whoever gets it can tell whether it is its
own and what is missing. A client is all of its connections in the order in which they were opened: read one after the
other they are what it was told. Nothing is judged here but one thing: what is for others is kept as foreign.
"""

from __future__ import annotations

import asyncio
import socket
from typing import NamedTuple
from urllib.parse import quote

from tests.road.api import PATIENCE_S

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
TEXT, CLOSE, PING = 1, 8, 9
MASK = b"\x80\x00\x00\x00\x00"  # of an empty control frame; the key is zero
GOODBYE = b"\x88\x82\x00\x00\x00\x00\x03\xe8"  # a masked close frame, 1000


class Got(NamedTuple):
    """for_user: pushed to its user and not to the client, which is another order."""

    priority: int
    number: int
    for_user: bool = False


def payload(name: str, priority: int, number: int, size: int = 0) -> str:
    """What `Connection` understands, padded to at least so many characters. name: of a client or a user."""
    return f"{name} {priority} {number} ".ljust(size, ".")


def upgrade(client_id: str, *fields: bytes, path: bytes = b"/ws", user: str = "") -> bytes:
    """An opening handshake in `auth.mode = "dev"`."""
    target = path + b"?client=" + quote(client_id, safe="").encode() + (b"&user=" + user.encode() if user else b"")
    return b"\r\n".join(
        [
            b"GET " + target + b" HTTP/1.1",
            b"Host: 127.0.0.1",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Key: " + KEY,
            b"Sec-WebSocket-Version: 13",
            *fields,
            b"\r\n",
        ]
    )


class Connection(asyncio.Protocol):
    """One WebSocket of a client. It ends on its own word, with the server's close code, or torn off (code 0)."""

    def __init__(self, client_id: str, user: str = "") -> None:
        self.client_id = client_id
        self.user = user
        self.got: list[Got] = []
        self.foreign: list[bytes] = []
        self.code = 0
        self.left = False  # on its own word
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[bool] = loop.create_future()  # False: it ended before it was open
        self.ended = asyncio.Event()
        self._own = {client_id.encode(): False, user.encode(): True}  # name: whether it is the user's
        self._held = b""
        self.transport: asyncio.Transport

    @property
    def is_open(self) -> bool:
        return self.opened.done() and self.opened.result() and not self.ended.is_set()

    @property
    def torn(self) -> bool:
        """Ended without a word from either side."""
        return self.ended.is_set() and not self.left and not self.code

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(upgrade(self.client_id, user=self.user))

    def data_received(self, data: bytes) -> None:
        data = self._held + data
        if not self.opened.done():
            head, blank, data = data.partition(b"\r\n\r\n")
            if not blank:
                self._held = head
                return
            self.opened.set_result(head.startswith(b"HTTP/1.1 101 "))
        self._held = data[self._read_frames(data) :]

    def _read_frames(self, data: bytes) -> int:
        """How many bytes were whole frames."""
        at, size = 0, len(data)
        while size - at >= 2:
            begin, length = at + 2, data[at + 1]
            if length == 126:
                begin, length = at + 4, int.from_bytes(data[at + 2 : at + 4], "big")
            elif length == 127:
                begin, length = at + 10, int.from_bytes(data[at + 2 : at + 10], "big")
            if size < begin + length:
                break
            self._take(data[at] & 15, data[begin : begin + length])
            at = begin + length
        return at

    def _take(self, opcode: int, content: bytes) -> None:
        if opcode == TEXT and content != b"_CLOSE_":
            name, priority, number, _ = content.split(b" ", 3)
            if name in self._own:
                self.got.append(Got(int(priority), int(number), self._own[name]))
            else:
                self.foreign.append(content)
        elif opcode == PING:
            self.transport.write(b"\x8a" + MASK)
        elif opcode == CLOSE:
            self.code = int.from_bytes(content[:2], "big")
            if not self.left:
                self.transport.write(b"\x88" + MASK)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_result(False)
        self.ended.set()

    async def leave(self) -> None:
        """The closing handshake; what comes before the server's half of it is read."""
        self.left = True
        self.transport.write(GOODBYE)
        await self.until_ended()

    async def until_ended(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.ended.wait()

    def tear(self) -> None:
        """RST, and nothing said."""
        self.left = True
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.transport.abort()


class Client:
    """receive_bytes: the kernel's buffer, 0: as it comes."""

    def __init__(self, address: str, client_id: str, receive_bytes: int = 0, user: str = "") -> None:
        host, _, port = address.rpartition(":")
        self.id = client_id
        self.user = user
        self._address = host, int(port)
        self._receive_bytes = receive_bytes
        self.connections: list[Connection] = []

    @property
    def current(self) -> Connection:
        return self.connections[-1]

    @property
    def got(self) -> list[Got]:
        """All it was told, in order."""
        return [each for connection in self.connections for each in connection.got]

    @property
    def is_open(self) -> bool:
        return bool(self.connections) and self.current.is_open

    @property
    def stayed(self) -> bool:
        """Somebody was there all the time: no connection was torn, no attempt failed, none was given up."""
        return all(c.opened.result() and not c.torn and not c.left for c in self.connections)

    async def open(self) -> Connection:
        """One more connection. It may have ended before it was open."""
        sock = socket.socket()
        if self._receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_bytes)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        connection = Connection(self.id, self.user)
        self.connections.append(connection)
        async with asyncio.timeout(3 * PATIENCE_S):  # a connect may wait for a worker that is being replaced
            await loop.sock_connect(sock, self._address)
            await loop.create_connection(lambda: connection, sock=sock)
            await connection.opened
        return connection

    async def stay(self) -> None:
        """As a client does that was cut off: comes back until it is let in."""
        while not self.is_open:
            await self.open()
