"""An engine on the test's own loop, with a handler that notes what it is told, and raw sockets as clients."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.support import eventually
from zpush._fast.engine import EVENT_STREAM, RAW, V1, Engine
from zpush._fast.frames import encode_frame
from zpush.protocol import envelope
from zpush.scoreboard import INDEX, WORKER, Row, Scoreboard

OPENED = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
PROTOCOLS = {b"raw": RAW, b"v1": V1, b"sse": EVENT_STREAM}


@dataclass
class EngineLimits:
    head_bytes: int = 1024
    head_fields: int = 16
    handshake_timeout_s: float = 10
    keepalive_s: float = 25
    pong_timeout_s: float = 20
    go_away_grace_s: float = 4
    inbound_message_bytes: int = 4096
    inbound_fragments: int = 1000
    inbound_messages: int = 0
    inbound_window_s: float = 10
    outbound_messages: int = 0
    outbound_window_s: float = 2
    per_address: int = 0
    handshakes_per_address: int = 0
    address_window_s: float = 10
    proxy_protocol: bool = False
    trusted_proxies: Sequence[str] = ()
    unsent_bytes: int = 65536
    unsent_age_s: float = 30
    unsent_budget_bytes: int = 1 << 24
    slow_consumer: str = "close"


@dataclass
class Notes:
    """What the engine told its handler. Opens `GET /<raw|v1|sse>/<client id>`; anything else is left to the test."""

    engine: Engine = field(init=False)
    age_s: int = 0
    requests: list[tuple[int, bytes, str]] = field(default_factory=list)
    messages: list[tuple[int, int, bytes]] = field(default_factory=list)
    closes: list[tuple[int, bytes, bytes, int, int, bool]] = field(default_factory=list)
    settled: dict[int, int] = field(default_factory=dict)
    broadcasts: dict[int, dict[int, int]] = field(default_factory=dict)

    def on_request(self, handle: int, head: bytes, peer: str) -> None:
        self.requests.append((handle, head, peer))
        protocol, _, client_id = head.split(b" ", 2)[1].strip(b"/").partition(b"/")
        if protocol in PROTOCOLS:
            self.engine.bind(handle, client_id, b"", PROTOCOLS[protocol])
            self.engine.open(handle, OPENED, 7, self.age_s, False)

    def on_message(self, handle: int, opcode: int, payload: bytes) -> None:
        self.messages.append((handle, opcode, payload))

    def on_close(self, handle: int, client_id: bytes, user_id: bytes, epoch: int, code: int, was_open: bool) -> None:
        self.closes.append((handle, client_id, user_id, epoch, code, was_open))

    def on_settled(self, settled: Sequence[tuple[int, int]]) -> None:
        self.settled.update(settled)

    def on_broadcast(self, token: int, counts: Mapping[int, int]) -> None:
        self.broadcasts[token] = dict(counts)


class Harness:
    """loop.add_reader feeds the engine; time passes only through engine.sweep."""

    def __init__(self, limits: EngineLimits, capacity: int = 4096, echo: bool = False) -> None:
        self.loop = asyncio.get_running_loop()
        self.board = Scoreboard()
        self.row: Row = self.board.rows[self.board.claim(WORKER, 0)]
        self.notes = Notes()
        self.limits = limits
        self._engine_arguments = (capacity, limits, echo)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self.address = self._listener.getsockname()
        self._make()

    def _make(self) -> None:
        capacity, limits, echo = self._engine_arguments
        self.engine = Engine(
            self.notes,
            capacity,
            limits,
            self.row.cells,
            INDEX,
            self.loop.call_soon,
            envelope.encode,
            echo=echo,
            seed=11,
        )
        self.notes.engine = self.engine
        self.engine.add_listener(self._listener.fileno())
        self.loop.add_reader(self.engine.fileno(), self.engine.poll)

    def rebuild(self) -> None:
        """Takes up callbacks that the test replaced in `notes`."""
        self.loop.remove_reader(self.engine.fileno())
        self._make()

    def close(self) -> None:
        self.loop.remove_reader(self.engine.fileno())
        self.engine.dispose()
        self._listener.close()

    def limit_notsent(self) -> None:
        """As the master's listeners do: the kernel takes next to nothing that a client has no window for."""
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 16384)

    async def connect(self, receive_bytes: int = 0) -> Peer:
        sock = socket.socket()
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setblocking(False)
        await self.loop.sock_connect(sock, self.address)
        return Peer(self.loop, sock)

    async def open(self, path: str, receive_bytes: int = 0) -> Peer:
        """A client that is open: "raw/alice", "v1/bob", "sse/carol"."""
        peer = await self.connect(receive_bytes)
        await peer.send(f"GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert await peer.take(len(OPENED)) == OPENED
        return peer

    async def until(self, condition: Callable[[], object]) -> None:
        """Lets the loop turn until the condition holds, 30 s at most: what has no callback is looked at again."""
        async with asyncio.timeout(30):
            for _ in range(100):
                if condition():
                    return
                await asyncio.sleep(0)
            await eventually(condition)


class Peer:
    """A client's socket with what was read but not yet taken."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._loop = loop
        self.sock = sock
        self._held = b""

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def send_frame(self, opcode: int, payload: bytes, fin: bool = True) -> None:
        await self.send(masked_frame(opcode, payload, fin))

    async def take(self, size: int) -> bytes:
        """Exactly so many bytes."""
        async with asyncio.timeout(30):
            while len(self._held) < size:
                data = await self._loop.sock_recv(self.sock, 1 << 20)
                assert data, f"the connection ended behind {self._held[:200]!r}"
                self._held += data
        taken, self._held = self._held[:size], self._held[size:]
        return taken

    async def skip_to(self, end: bytes) -> None:
        """Reads until what was read ends so."""
        async with asyncio.timeout(30):
            while not self._held.endswith(end):
                self._held = self._held[-len(end) :] + await self._loop.sock_recv(self.sock, 1 << 20)
        self._held = b""

    async def rest(self) -> bytes:
        """Everything until the server's FIN (or RST)."""
        async with asyncio.timeout(30):
            while True:
                try:
                    data = await self._loop.sock_recv(self.sock, 1 << 20)
                except ConnectionResetError:
                    data = b""
                if not data:
                    taken, self._held = self._held, b""
                    return taken
                self._held += data

    async def expect_frame(self, opcode: int, payload: bytes) -> None:
        wanted = encode_frame(opcode, payload)
        assert await self.take(len(wanted)) == wanted

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()


def masked_frame(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    mask = b"\x11\x22\x33\x44"
    size = len(payload)
    head = bytes([opcode | (0x80 if fin else 0)])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += b"\xfe" + size.to_bytes(2, "big")
    else:
        head += b"\xff" + size.to_bytes(8, "big")
    return head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
