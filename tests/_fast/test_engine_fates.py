"""Every connection that was accepted has exactly one result of its handshake, whatever became of it."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests._fast.conftest import MakeHarness
from tests._fast.engine_support import Harness, Peer
from tests._fast.proxy_support import v1
from zpush.scoreboard import HANDSHAKE_RESULTS


def results(h: Harness) -> dict[str, int]:
    """Those that are not 0. Their sum is what was accepted."""
    found = {r: h.row.get(f"handshakes_{r}") for r in HANDSHAKE_RESULTS}
    return {r: count for r, count in found.items() if count}


async def ask_later(h: Harness) -> tuple[Peer, int]:
    """A client whose request Python has not answered yet, and its handle."""
    peer = await h.connect()
    await peer.send(b"GET /later HTTP/1.1\r\n\r\n")
    await h.until(lambda: h.notes.requests)
    return peer, h.notes.requests.pop()[0]


@pytest.mark.parametrize("data", [b"", b"GET / HT", b"GET /later HTTP/1.1\r\n\r\n"])
@pytest.mark.parametrize("reset", [False, True])
async def test_who_leaves_before_it_is_answered_aborted(harness: MakeHarness, data: bytes, reset: bool) -> None:
    h = harness()
    peer = await h.connect()
    await peer.send(data)
    await h.until(lambda: h.row.get("received_bytes") == len(data) and h.row.get("accepted"))
    peer.reset() if reset else peer.close()
    await h.until(lambda: h.engine.connections == 0)
    assert results(h) == {"aborted": 1}


async def test_who_leaves_with_the_answer_in_sight_is_counted_once(harness: MakeHarness) -> None:
    h = harness()
    peer, handle = await ask_later(h)
    h.engine.respond(handle, b"HTTP/1.1 401 Unauthorized\r\n\r\n", "unauthorized")
    peer.reset()
    await h.until(lambda: h.engine.connections == 0)
    assert results(h) == {"unauthorized": 1}


async def test_no_slot_is_full(harness: MakeHarness) -> None:
    h = harness(capacity=2)
    peers = [await h.open(f"raw/{i}") for i in range(2)]
    third = await h.connect()
    assert await third.rest() == b""
    assert results(h) == {"ok": 2, "full": 1}
    for peer in peers:
        peer.close()


async def test_no_room_for_half_a_head_is_unavailable(harness: MakeHarness) -> None:
    h = harness(unsent_budget_bytes=100)
    peer = await h.connect()
    await peer.send(b"GET / HTTP/1.1\r\n" + b"x" * 200)
    assert (await peer.rest()).startswith(b"HTTP/1.1 503 ")
    assert results(h) == {"unavailable": 1}


async def test_silence_is_a_timeout_in_either_state(harness: MakeHarness) -> None:
    h = harness()
    silent = await h.connect()
    await h.until(lambda: h.row.get("accepted"))
    asked, _ = await ask_later(h)
    h.engine.sweep(12)
    assert await silent.rest() == b""
    assert (await asked.rest()).startswith(b"HTTP/1.1 503 ")
    assert results(h) == {"timeout": 2}


@pytest.mark.parametrize(("code", "result"), [(4002, "replaced"), (1001, "draining"), (4005, "aborted")])
async def test_who_is_closed_while_it_is_asked(harness: MakeHarness, code: int, result: str) -> None:
    h = harness()
    _, handle = await ask_later(h)
    h.engine.bind(handle, b"alice", b"", 1)
    assert h.engine.close(handle, code)
    assert h.notes.closes == [(handle, b"alice", b"", 0, code, False)]
    assert results(h) == {result: 1}


@pytest.mark.parametrize("data", [v1("TCP4", "1.2.3.4", "5.6.7.8", 1, 2)[:-4], b"GET /raw/x HTTP/1.1\r\n\r\n"])
async def test_half_a_proxy_header_and_none(harness: MakeHarness, data: bytes) -> None:
    h = harness(proxy_protocol=True, trusted_proxies=["127.0.0.0/8"])
    peer = await h.connect()
    await peer.send(data)
    await h.until(lambda: h.row.get("received_bytes"))
    peer.close()
    await h.until(lambda: h.engine.connections == 0)
    assert results(h) == {"proxy": 1}


async def test_a_crowd_of_all_kinds_adds_up(harness: MakeHarness) -> None:
    h = harness(head_bytes=256)
    rng = random.Random(5)
    sent = [b"", b"GET / H", b"x" * 400, b"GET /later HTTP/1.1\r\n\r\n", b"GET /raw/%d HTTP/1.1\r\n\r\n"]
    for number in range(300):
        peer = await h.connect()
        data = rng.choice(sent)
        await peer.send(data % number if b"%d" in data else data)
        if rng.random() < 0.5:
            await asyncio.sleep(0)
        peer.reset() if rng.random() < 0.5 else peer.close()
    # Who was reset in the backlog may be accepted or not, as the kernel likes.
    await h.until(lambda: h.engine.connections == 0)
    assert sum(results(h).values()) == h.row.get("accepted") >= 200
