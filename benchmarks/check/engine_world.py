"""An engine driven by hand: no loop, its clients in the same process, on real sockets.

Rules. What a client does (connect, send, read) is preparation and not counted; what the engine does is.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from zpush._fast.engine import RAW, Engine
from zpush.config.settings import Connections
from zpush.protocol import envelope
from zpush.scoreboard import INDEX, WORKER, Scoreboard

OPENED = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
ID = b"0199aabbccdd0011223344556677"


class Handler:
    """Opens whoever comes, under the ids client-0000000000000, 1, 2 …"""

    engine: Engine

    def __init__(self) -> None:
        self.opened = 0
        self.broadcasts = 0

    def on_request(self, handle: int, head: bytes, peer: str) -> None:
        self.engine.bind(handle, client_id(self.opened), b"", RAW)
        self.engine.open(handle, OPENED, 1, 0, False)
        self.opened += 1

    def on_message(self, handle: int, opcode: int, payload: bytes) -> None:
        raise AssertionError("clients of this engine have nothing to say")

    def on_close(self, handle: int, client_id: bytes, user_id: bytes, epoch: int, code: int, was_open: bool) -> None:
        self.opened -= 1

    def on_settled(self, settled: Sequence[tuple[int, int]]) -> None:
        raise AssertionError("a socket was full")

    def on_broadcast(self, token: int, counts: Mapping[int, int]) -> None:
        self.broadcasts += 1


def client_id(number: int) -> bytes:
    return b"client-%013d" % number


class EngineWorld:
    """size: connections, open after the first prepare."""

    def __init__(self, size: int, echo: bool = False) -> None:
        self._size = size
        self._due: deque[Callable[[], None]] = deque()
        self._handler = Handler()
        board = Scoreboard()
        self.row = board.rows[board.claim(WORKER, 0)]
        self.engine = Engine(
            self._handler, 2 * size, Connections(), self.row.cells, INDEX, self._due.append, envelope.encode, echo, 11
        )
        self._handler.engine = self.engine
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=size)
        self._listener.setblocking(False)
        self.engine.add_listener(self._listener.fileno())
        self._clients: list[socket.socket] = []

    def _turn(self) -> None:
        self.engine.poll()
        while self._due:
            self._due.popleft()()

    def _turn_until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._turn()

    # ---- rounds

    def prepare_open(self) -> Callable[[], None]:
        for each in self._clients:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            each.close()
        self._turn_until(lambda: not self.engine.connections)
        self._clients = [socket.create_connection(self._listener.getsockname()) for _ in range(self._size)]
        for each in self._clients:
            each.sendall(HEAD)
        return lambda: self._turn_until(lambda: self._handler.opened == self._size)

    def _open_once(self) -> None:
        if not self._clients:
            self.prepare_open()()
        for each in self._clients:
            each.recv(1 << 20)  # the 101, or the round before

    def prepare_messages(self, frame: bytes) -> Callable[[], None]:
        self._open_once()
        wanted = self.row.get("messages_received") + self._size
        for each in self._clients:
            each.sendall(frame)
        return lambda: self._turn_until(lambda: self.row.get("messages_received") == wanted)

    def prepare_broadcasts(self, payload: bytes, times: int) -> Callable[[], None]:
        self._open_once()
        wanted = self._handler.broadcasts + times

        def work() -> None:
            for _ in range(times):
                self.engine.broadcast(ID, payload, 1)
            self._turn_until(lambda: self._handler.broadcasts == wanted)

        return work

    def prepare_batch(self, payload: bytes) -> Callable[[], object]:
        self._open_once()
        entries = [(client_id(i), ID, payload, 1) for i in range(self._size)]
        return lambda: self.engine.deliver_many(entries)
