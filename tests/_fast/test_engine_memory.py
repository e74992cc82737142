"""An idle connection is no Python object; what slow consumers took goes back to the kernel, not only to malloc."""

from __future__ import annotations

import gc
import os
import platform
import socket
import sys
from array import array

import pytest

from tests._fast.conftest import MakeHarness
from tests._fast.engine_support import Harness
from tests.road.bystanders import resident_bytes

IDLE = 400
WAITING = 200
PAYLOAD = b"x" * 100_000  # less than what malloc maps for itself alone
SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")  # another malloc, which keeps what is freed


async def test_an_idle_connection_is_no_python_object(harness: MakeHarness) -> None:
    h = harness()
    clients = array("i")  # neither are the clients
    await _open_idle(h, clients, IDLE)  # what grows once has grown
    before = _python_blocks()
    await _open_idle(h, clients, IDLE)
    after = _python_blocks()
    assert h.engine.connections == 2 * IDLE
    assert after - before < IDLE / 10
    for fd in clients:
        os.close(fd)


async def _open_idle(h: Harness, clients: array[int], count: int) -> None:
    wanted = h.engine.connections + count
    for number in range(count):
        client = socket.create_connection(h.address)
        client.sendall(b"GET /raw/%d HTTP/1.1\r\n\r\n" % (wanted + number))
        clients.append(client.detach())
    await h.until(lambda: h.engine.connections == wanted and len(h.notes.requests) == count)
    h.notes.requests.clear()


def _python_blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or SANITIZED, reason="glibc's malloc keeps holes; others do not")
async def test_holes_in_the_heap_are_given_back_by_the_next_sweep(harness: MakeHarness) -> None:
    """Every second one stays, so that no two holes are one, and none is at the heap's end."""
    h = harness(handshake_timeout_s=60)
    peers = [await h.connect() for _ in range(WAITING)]
    for peer in peers:
        await peer.send(b"GET /later HTTP/1.1\r\n\r\n")
    await h.until(lambda: len(h.notes.requests) == WAITING)
    for handle, _, _ in h.notes.requests:
        h.engine.bind(handle, b"%d" % handle, b"", 1)
        h.engine.deliver_many([(b"%d" % handle, b"1", PAYLOAD, 1)])  # waits until it is open
    h.engine.sweep(1)
    filled_bytes = resident_bytes(os.getpid())
    for handle, _, _ in h.notes.requests[::2]:
        h.engine.close(handle, 1000)
    h.engine.sweep(1)
    gone_bytes = WAITING // 2 * len(PAYLOAD)
    assert filled_bytes - resident_bytes(os.getpid()) > 0.8 * gone_bytes


async def test_a_buffer_that_never_empties_holds_no_more_than_what_waits(harness: MakeHarness) -> None:
    """One message is always in front of another: what was sent leaves nothing behind."""
    h = harness(unsent_bytes=1 << 30, unsent_budget_bytes=1 << 30)
    h.limit_notsent()
    peer = await h.open("raw/slow", receive_bytes=4096)
    waiting: list[int] = []
    for sent in range(20_000):
        if sent == 2000:
            blocks = h.row.get("allocated")
        waiting += [token for _, token in h.engine.deliver_many([(b"slow", b"id", b"x" * 1000, 1)])[1]]
        while len(waiting) > 100:
            await peer.take(2048)
            waiting = [token for token in waiting if token not in h.notes.settled]
        assert sent < 2000 or waiting
    assert h.row.get("allocated") == blocks, "neither bytes nor marks are allocated anew once there is room for a few"
    peer.close()
