"""Tens of thousands of connections that come and go, by blocking sockets: each way to go is a function.

Rules. A herd comes in waves of WAVE open sockets, so that a way is as wide in a warm-up as in the run that is
compared with it. Each socket has its source address of a few dozen, for one address has too few ports: a closed
connection keeps its own for a minute.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterator, Sequence

from tests.road.crowd import GOODBYE, upgrade
from zpush.protocol.close import DISCONNECTED, reason_of

WAVE = 250
PATIENCE_S = 20.0
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: the port is chosen by connect(), which knows the other side
SOURCES = itertools.cycle(f"127.0.0.{n}" for n in range(1, 65))
RESET = b"\1\0\0\0\0\0\0\0"  # SO_LINGER: close sends RST
_numbers = itertools.count()


def dial(address: tuple[str, int], receive_bytes: int = 0) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.settimeout(PATIENCE_S)
    sock.bind((next(SOURCES), 0))
    sock.connect(address)
    return sock


def ask(address: tuple[str, int], request: bytes, receive_bytes: int = 0) -> socket.socket:
    sock = dial(address, receive_bytes)
    sock.sendall(request)
    return sock


def opened(socks: Sequence[socket.socket], status: bytes = b"101") -> None:
    """Reads each one's head. Nothing may come behind it yet."""
    for sock in socks:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = sock.recv(4096)
            assert piece, data
            data += piece
        assert data[9:12] == status, data


def ended(socks: Sequence[socket.socket]) -> list[bytes]:
    """Reads each one to its end, and closes it. The last bytes of each."""
    last = []
    for sock in socks:
        data = b""
        try:
            while piece := sock.recv(65536):
                data = (data + piece)[-256:]
        except ConnectionResetError:
            pass
        last.append(data)
        sock.close()
    return last


def reset(socks: Sequence[socket.socket]) -> None:
    for sock in socks:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()


def names(count: int) -> Iterator[str]:
    return (f"herd{next(_numbers)}" for _ in range(count))


def in_waves(count: int, wave: Callable[[int], None]) -> None:
    for begin in range(0, count, WAVE):
        wave(min(WAVE, count - begin))


def cleanly(address: tuple[str, int], count: int) -> None:
    """A closing handshake."""
    socks = [ask(address, upgrade(name)) for name in names(count)]
    opened(socks)
    for sock in socks:
        sock.sendall(GOODBYE)
    assert {data[-4:] for data in ended(socks)} == {b"\x88\x02\x03\xe8"}


def abruptly(address: tuple[str, int], count: int) -> None:
    """FIN without a word, half of them event streams."""
    sockets = [ask(address, upgrade(name)) for name in names(count // 2)]
    streams = [ask(address, upgrade(name, path=b"/sse")) for name in names(count - count // 2)]
    opened(sockets)
    opened(streams, b"200")
    for sock in (*sockets, *streams):
        sock.close()


def by_reset(address: tuple[str, int], count: int) -> None:
    """RST: at once, amid the head, behind it, when open, amid a frame."""
    kinds = [b"", upgrade("half")[:40], upgrade("whole")]
    socks = [dial(address) for _ in range(count * 3 // 5)]
    for sock, request in zip(socks, itertools.cycle(kinds)):
        if request:
            sock.sendall(request)
    there = [ask(address, upgrade(name)) for name in names(count - len(socks))]
    opened(there)
    for sock in there[::2]:
        sock.sendall(b"\x81\xfe\x10\x00\0\0\0\0some of it")
    reset([*socks, *there])


def refused(address: tuple[str, int], count: int) -> None:
    """By status: 400, 401, 404, 426, 431."""
    requests = {
        b"400": b"nonsense\r\n\r\n",
        b"401": upgrade(""),
        b"404": upgrade("c", path=b"/nowhere"),
        b"426": upgrade("c").replace(b"Version: 13", b"Version: 12"),
        b"431": upgrade("c", b"X: " + b"x" * 20_000),
    }
    kinds = [status for status, _ in zip(itertools.cycle(requests), range(count))]
    socks = [ask(address, requests[status]) for status in kinds]
    for sock, status in zip(socks, kinds, strict=True):
        opened([sock], status)
    ended(socks)


def replaced(address: tuple[str, int], count: int) -> None:
    """Ten clients, each of them again and again."""
    ids = [*names(10)]
    socks = [ask(address, upgrade(ids[0]))]
    opened(socks)
    for number in range(1, count):
        newer = ask(address, upgrade(ids[number % 10]))
        opened([newer])
        socks.append(newer)
    for sock in socks[-10:]:
        sock.sendall(GOODBYE)
    for sock in socks[:-10]:
        assert sock.recv(4)[2:4] == b"\x0f\xa2"  # 4002
        sock.sendall(b"\x88\x82\0\0\0\0\x0f\xa2")
    ended(socks)


def by_operators(address: tuple[str, int], count: int, disconnect: Callable[[str], None]) -> None:
    """Closed by the server, and only some answer."""
    ids = [*names(count)]
    socks = [ask(address, upgrade(name)) for name in ids]
    opened(socks)
    for number, name in enumerate(ids):
        disconnect(name)
        if number % 2 == 0:  # at once: a closing handshake has a few seconds, which all of them may take
            socks[number].sendall(b"\x88\x82\0\0\0\0\x0f\xa5")
    for sock in socks[1::2]:
        sock.close()
    farewell = b"\x0f\xa5" + reason_of(DISCONNECTED)
    assert all(data.endswith(farewell) for data in ended(socks[::2]))


def too_slow_to_ask(address: tuple[str, int], count: int) -> list[socket.socket]:
    """Half a head: the handshake's time ends them."""
    return [ask(address, upgrade("slow")[:50]) for _ in range(count)]


def deaf(address: tuple[str, int], count: int) -> list[socket.socket]:
    """They never answer a ping."""
    socks = [ask(address, upgrade(name)) for name in names(count)]
    opened(socks)
    return socks


def stuck(address: tuple[str, int], count: int, push: Callable[[list[str]], None]) -> list[socket.socket]:
    """They never read what is pushed to them."""
    ids = [*names(count)]
    socks = [ask(address, upgrade(name), receive_bytes=4096) for name in ids]
    opened(socks)
    push(ids)
    return socks
