"""How much one call of poll() does: the loop has other sockets, and their callers wait meanwhile."""

from __future__ import annotations

import socket

from tests._fast.conftest import MakeHarness
from tests._fast.engine_support import Harness, masked_frame

HEADS_A_CALL = 32
HERD = 100
HEAD = b"GET /raw/%d HTTP/1.1\r\nHost: x\r\n\r\n"


def connect(h: Harness, count: int) -> list[socket.socket]:
    return [socket.create_connection(h.address) for _ in range(count)]


def heads_by_call(h: Harness, calls: int) -> list[int]:
    counts = []
    for _ in range(calls):
        before = len(h.notes.requests)
        h.engine.poll()
        counts.append(len(h.notes.requests) - before)
    return counts


async def test_a_call_takes_a_bounded_number_of_new_connections(harness: MakeHarness) -> None:
    h = harness()
    herd = connect(h, HERD)
    for i, each in enumerate(herd):
        each.sendall(HEAD % i)
    assert heads_by_call(h, 4) == [HEADS_A_CALL] * 3 + [HERD - 3 * HEADS_A_CALL]
    assert h.engine.connections == HERD
    for each in herd:
        each.close()


async def test_a_call_takes_a_bounded_number_of_heads_that_come_later(harness: MakeHarness) -> None:
    h = harness()
    herd = connect(h, HERD)
    while h.engine.connections < HERD:
        h.engine.poll()
    for i, each in enumerate(herd):
        each.sendall(HEAD % i)
    counts = heads_by_call(h, 20)  # what a call is told of first need not be what it was not told of before
    assert max(counts) == HEADS_A_CALL
    assert sum(counts) == HERD
    for each in herd:
        each.close()


async def test_who_is_here_comes_before_who_wants_in(harness: MakeHarness) -> None:
    h = harness()
    order: list[str] = []
    on_request = h.notes.on_request

    def noted(handle: int, head: bytes, peer: str) -> None:
        order.append("request")
        on_request(handle, head, peer)

    h.notes.on_request = noted  # type: ignore[method-assign]
    h.notes.on_message = lambda *_: order.append("message")  # type: ignore[method-assign]
    h.rebuild()
    settled = await h.open("v1/alice")
    [comer] = connect(h, 1)
    comer.sendall(HEAD % 1)
    settled.sock.setblocking(True)
    settled.sock.sendall(masked_frame(1, b"x"))
    h.engine.poll()
    assert order == ["request", "message", "request"]
    comer.close()
    settled.close()
