"""Deadlines: time is a parameter, so a day of them passes in milliseconds."""

from __future__ import annotations

import json

import pytest

from tests._fast.conftest import MakeHarness
from tests._fast.engine_support import EngineLimits, Harness, Peer

PING = b"\x89\x00"


async def sweep(h: Harness, seconds: int) -> None:
    for _ in range(seconds):
        h.engine.sweep(1)


async def sweep_until_ping(h: Harness) -> None:
    before = h.row.get("pings_sent")
    for _ in range(31):  # keepalive and the slot's phase
        if h.row.get("pings_sent") > before:
            return
        h.engine.sweep(1)
    assert h.row.get("pings_sent") > before


async def test_silence_brings_a_ping_and_no_pong_the_end(harness: MakeHarness) -> None:
    h = harness()
    peer = await h.open("raw/alice")
    await sweep(h, 25)
    assert h.row.get("pings_sent") == 0
    await sweep_until_ping(h)
    assert await peer.take(2) == PING
    await sweep(h, 20)
    assert h.engine.connections == 1
    await sweep(h, 1)
    assert h.engine.connections == 0
    assert h.notes.closes[0][4] == 1006


async def test_a_pong_or_any_message_keeps_it_alive(harness: MakeHarness) -> None:
    h = harness()
    peer = await h.open("raw/alice")
    for opcode in (10, 1):
        await sweep_until_ping(h)
        assert await peer.take(2) == PING
        seen = h.row.get("frames_received")
        await peer.send_frame(opcode, b"")
        await h.until(lambda seen=seen: h.row.get("frames_received") > seen)
        await sweep(h, 21)
        assert h.engine.connections == 1


async def test_herds_are_not_pinged_together(harness: MakeHarness) -> None:
    h = harness()
    peers = [await h.open(f"raw/{i}") for i in range(60)]
    pinged = []
    for _ in range(31):
        before = h.row.get("pings_sent")
        h.engine.sweep(1)
        pinged.append(h.row.get("pings_sent") - before)
    assert sum(pinged) == 60
    assert max(pinged) <= 25
    assert len([n for n in pinged if n]) == 6
    for peer in peers:
        peer.close()


async def test_an_event_stream_is_kept_alive_by_comments(harness: MakeHarness) -> None:
    h = harness()
    peer = await h.open("sse/alice")
    for _ in range(3):
        await sweep(h, 31)
        assert await peer.take(3) == b":\n\n"


GO_AWAY = {"raw": b"\x81\x07_CLOSE_", "sse": b"event: goaway\ndata: _CLOSE_\n\n"}


@pytest.mark.parametrize("protocol", ["raw", "sse"])
async def test_max_age_asks_to_go_then_closes_with_1000(harness: MakeHarness, protocol: str) -> None:
    h = harness(keepalive_s=3600)
    h.notes.age_s = 1800
    peer = await h.open(f"{protocol}/alice")
    h.engine.sweep(1800)
    assert h.row.get("go_aways_sent") == 0
    h.engine.sweep(1)
    assert await peer.take(len(GO_AWAY[protocol])) == GO_AWAY[protocol]
    assert h.engine.find(b"alice"), "until it goes it is served"
    h.engine.sweep(5)
    await h.until(lambda: h.notes.closes)
    assert h.notes.closes[0][4] == 1000
    if protocol == "sse":
        assert await peer.rest() == b"id: zpush:close:1000\nevent: close\ndata: 1000\n\n"


async def test_v1_is_told_why_and_when_to_come_back(harness: MakeHarness) -> None:
    h = harness(keepalive_s=3600)
    h.notes.age_s = 60
    peer = await h.open("v1/alice")
    h.engine.sweep(61)
    head = await peer.take(2)
    told = json.loads(await peer.take(head[1]))
    assert told["go_away"]["reason"] == "max_age"
    assert 0 <= told["go_away"]["reconnect_in_ms"] <= 2000


async def test_a_client_that_goes_when_asked_is_not_closed_by_us(harness: MakeHarness) -> None:
    h = harness(keepalive_s=3600)
    h.notes.age_s = 60
    peer = await h.open("raw/alice")
    h.engine.sweep(61)
    await peer.take(len(GO_AWAY["raw"]))
    await peer.send_frame(8, b"\x03\xe8")
    await peer.expect_frame(8, b"\x03\xe8")
    assert h.notes.closes[0][4] == 1000
    peer.close()


@pytest.mark.parametrize(("expires", "drained", "code"), [(True, False, 4006), (False, True, 1001)])
async def test_the_code_after_the_grace_says_why(harness: MakeHarness, expires: bool, drained: bool, code: int) -> None:
    h = harness(keepalive_s=3600)
    peer = await h.connect()
    await peer.send(b"GET /later HTTP/1.1\r\n\r\n")
    await h.until(lambda: h.notes.requests)
    handle = h.notes.requests[0][0]
    h.engine.bind(handle, b"alice", b"", 1)
    h.engine.open(handle, b"ok", 1, 10, expires)
    if drained:
        assert h.engine.go_away_all(3) == 1
    h.engine.sweep(11)
    h.engine.sweep(5)
    assert h.notes.closes[0][4] == code


LONGER_THAN_THE_WHEEL_S = 70_000


async def ended_after_s(h: Harness, handle: int, at_most_s: int) -> int:
    """Seconds until it is no longer open; AssertionError where it still is after at_most_s."""
    for second in range(1, at_most_s + 1):
        h.engine.sweep(1)
        if not h.engine.is_open(handle):
            return second
    raise AssertionError(f"still open after {at_most_s} s")


async def opened_until(h: Harness, end_s: int) -> tuple[Peer, int]:
    """A client that does not obey, whose token ends in end_s; and its handle."""
    peer = await h.connect()
    await peer.send(b"GET /later HTTP/1.1\r\n\r\n")
    await h.until(lambda: h.notes.requests)
    handle = h.notes.requests[-1][0]
    h.engine.bind(handle, b"alice", b"", 1)
    assert h.engine.open(handle, b"ok", 1, end_s, True)
    return peer, handle


@pytest.mark.parametrize("grace_s", [1, 4, 600])
@pytest.mark.parametrize("end_s", [1, 2, 3, 4, 5, 6, 60, LONGER_THAN_THE_WHEEL_S])
async def test_a_connection_never_outlives_its_token(harness: MakeHarness, end_s: int, grace_s: int) -> None:
    h = harness(keepalive_s=36_000, pong_timeout_s=36_000, go_away_grace_s=grace_s)
    peer, handle = await opened_until(h, end_s)
    assert await ended_after_s(h, handle, end_s) >= end_s - 2
    assert h.row.get("go_aways_sent") == 1
    await peer.skip_to(b"\x0f\xa6the token has expired")
    peer.close()


@pytest.mark.parametrize("grace_s", [1, 30])
async def test_nor_where_a_reload_changes_the_grace(harness: MakeHarness, grace_s: int) -> None:
    h = harness(keepalive_s=3600)
    peer, handle = await opened_until(h, 60)
    h.engine.sweep(10)
    h.engine.set_limits(EngineLimits(keepalive_s=3600, go_away_grace_s=grace_s))
    assert await ended_after_s(h, handle, 50) >= 48
    peer.close()


@pytest.mark.parametrize("window_s", [1, 20, 300])
async def test_nor_where_its_worker_drains(harness: MakeHarness, window_s: int) -> None:
    h = harness(keepalive_s=3600)
    peer, handle = await opened_until(h, 60)
    h.engine.sweep(10)
    assert h.engine.go_away_all(window_s) == 1
    assert await ended_after_s(h, handle, 50) <= window_s + 6
    peer.close()


async def test_ages_longer_than_the_wheel(harness: MakeHarness) -> None:
    h = harness(keepalive_s=3600, pong_timeout_s=3600)
    h.notes.age_s = 100_000
    peer = await h.open("sse/alice")
    for _ in range(10_000):
        h.engine.sweep(10)
    assert h.row.get("go_aways_sent") == 0
    h.engine.sweep(10)
    h.engine.sweep(10)
    assert h.row.get("go_aways_sent") == 1
    peer.close()


async def test_a_drain_spreads_its_go_aways(harness: MakeHarness) -> None:
    h = harness(keepalive_s=3600)
    peers = [await h.open(f"raw/{i}") for i in range(100)]
    assert h.engine.go_away_all(50) == 100
    asked = []
    for _ in range(52):
        before = h.row.get("go_aways_sent")
        h.engine.sweep(1)
        asked.append(h.row.get("go_aways_sent") - before)
    assert sum(asked) == 100
    assert max(asked) <= 12
    for peer in peers:
        peer.close()


async def test_a_day_of_clients_that_obey(harness: MakeHarness) -> None:
    """Clients that answer pings and go when asked, for 24 h: every go-away is obeyed, nobody is closed as dead."""
    h = harness()
    h.notes.age_s = 1700
    peers: list[Peer] = [await h.open(f"raw/{i}") for i in range(5)]
    for _ in range(24 * 3600 // 3400):
        for _ in range(3400 // 17):
            h.engine.sweep(17)
            for i, peer in enumerate(peers):
                peers[i] = await _obey(h, peer, i)
    assert h.row.get("closes_1006") == 0
    assert h.row.get("go_aways_sent") >= 5 * 40
    for peer in peers:
        peer.close()


async def _obey(h: Harness, peer: Peer, number: int) -> Peer:
    """Answers what has come by now, without waiting."""
    try:
        data = peer.sock.recv(4096)
    except BlockingIOError:
        return peer
    if GO_AWAY["raw"] in data:
        await peer.send_frame(8, b"\x03\xe8")
        await peer.rest()
        peer.close()
        return await h.open(f"raw/{number}")
    if PING in data:
        seen = h.row.get("frames_received")
        await peer.send_frame(10, b"")
        await h.until(lambda: h.row.get("frames_received") > seen)
    return peer


async def test_an_age_of_never_is_not_mistaken_for_one_that_is_due(harness: MakeHarness) -> None:
    h = harness(keepalive_s=36000, pong_timeout_s=36000)
    peer = await h.open("raw/alice")
    for _ in range(200):
        h.engine.sweep(1000)
    assert h.row.get("go_aways_sent") == 0
    peer.close()
