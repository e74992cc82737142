"""Limits by client address over sockets: loopback has sixteen million addresses to come from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests._fast.conftest import MakeHarness
from tests._fast.engine_support import OPENED, Harness, Peer
from tests._fast.proxy_support import v2_from
from tests._fast.test_engine_proxy import HEAD, connect_from
from zpush._fast import addresses

ALICE, BOB = "127.0.0.2", "127.0.0.3"


_kept: list[Peer] = []  # a socket that nobody holds is closed


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    for peer in _kept:
        peer.close()
    _kept.clear()


async def open_from(h: Harness, source: str, name: str, header: bytes = b"") -> Peer:
    peer = await connect_from(h, source)
    _kept.append(peer)
    await peer.send(header + f"GET /raw/{name} HTTP/1.1\r\n\r\n".encode())
    assert await peer.take(len(OPENED)) == OPENED
    return peer


async def refused_from(h: Harness, source: str, data: bytes = HEAD) -> int:
    """Seconds of Retry-After."""
    before = h.row.get("handshakes_address_limited")
    peer = await connect_from(h, source)
    await peer.send(data)
    answer = await peer.rest()
    peer.close()
    assert answer.startswith(b"HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nRetry-After: ")
    assert answer.endswith(b"\r\nContent-Length: 0\r\n\r\n")
    assert h.row.get("handshakes_address_limited") == before + 1
    return int(answer.split(b"Retry-After: ")[1].split(b"\r\n")[0])


async def test_connections_of_one_address_are_limited(harness: MakeHarness) -> None:
    h = harness(per_address=2)
    first = await open_from(h, ALICE, "a")
    second = await open_from(h, ALICE, "b")
    assert 10 <= await refused_from(h, ALICE) <= 20
    await open_from(h, BOB, "c")
    first.close()
    await h.until(lambda: not h.engine.find(b"a"))
    await open_from(h, ALICE, "d")
    await refused_from(h, ALICE)
    second.close()
    assert len(h.notes.requests) == 4  # nobody who was refused was heard


async def test_handshakes_in_progress_count(harness: MakeHarness) -> None:
    h = harness(per_address=2)
    silent = [await connect_from(h, ALICE) for _ in range(2)]
    await h.until(lambda: h.engine.connections == 2)
    await refused_from(h, ALICE)
    h.engine.sweep(11)
    for each in silent:
        assert await each.rest() == b""
    await open_from(h, ALICE, "a")


async def test_the_rate_of_handshakes_is_limited(harness: MakeHarness) -> None:
    h = harness(handshakes_per_address=3, address_window_s=6)
    for n in range(3):
        (await open_from(h, ALICE, f"a{n}")).close()
    assert 6 <= await refused_from(h, ALICE) <= 12
    await open_from(h, BOB, "b")
    h.engine.sweep(1)
    await refused_from(h, ALICE)
    h.engine.sweep(1)
    await open_from(h, ALICE, "c")
    await refused_from(h, ALICE)


async def test_an_address_comes_back_whatever_ends_its_connection(harness: MakeHarness) -> None:
    h = harness(per_address=1, head_bytes=64)
    for n, end in enumerate(["fin", "rst", "server", "too large", "respond", "kill"]):
        peer = await connect_from(h, ALICE)
        path = b"/later" if end in ("respond", "kill") else b"/raw/%d" % n
        await peer.send(b"GET %b HTTP/1.1\r\n\r\n" % path if end != "too large" else b"x" * 100)
        if end not in ("too large", "respond", "kill"):
            assert await peer.take(len(OPENED)) == OPENED
        else:
            await h.until(lambda: h.row.get("received_bytes"))
        if end == "rst":
            peer.reset()
        elif end == "server":
            h.engine.close_client(b"%d" % n, 0, 4005)
        elif end in ("respond", "kill"):
            await h.until(lambda: h.notes.requests[-1][1].startswith(b"GET /later"))
            handle = h.notes.requests.pop()[0]
            assert h.engine.respond(handle, OPENED, "http") if end == "respond" else h.engine.close(handle, 1000)
        if end != "rst":
            peer.close()
        await h.until(lambda: h.engine.connections == 0)
    await open_from(h, ALICE, "last")
    await refused_from(h, ALICE)


async def test_whoever_stands_behind_a_proxy_counts_for_himself(harness: MakeHarness) -> None:
    h = harness(per_address=1, proxy_protocol=True, trusted_proxies=["127.0.0.2", "10.0.0.0/8"])
    await open_from(h, ALICE, "a", v2_from("203.0.113.9", 1))
    await refused_from(h, ALICE, v2_from("203.0.113.9", 2) + HEAD)
    await refused_from(h, ALICE, v2_from("::ffff:203.0.113.9", 2) + HEAD)
    await open_from(h, ALICE, "b", v2_from("203.0.113.10", 1))
    await open_from(h, ALICE, "c", v2_from("2001:db8:0:1::1", 1))
    await refused_from(h, ALICE, v2_from("2001:db8:0:1:ffff:ffff:ffff:ffff", 1) + HEAD)  # the same /64
    await open_from(h, ALICE, "d", v2_from("2001:db8:0:2::1", 1))
    for n in range(3):  # a proxy itself, and one behind it, have no limits
        await open_from(h, ALICE, f"e{n}", v2_from("10.1.1.1", 1))
    await open_from(h, BOB, "f")
    await refused_from(h, BOB)


async def asked(h: Harness, source: str) -> tuple[Peer, int]:
    """A request that waits for its answer."""
    peer = await connect_from(h, source)
    _kept.append(peer)
    before = len(h.notes.requests)
    await peer.send(b"GET /later HTTP/1.1\r\n\r\n")
    await h.until(lambda: len(h.notes.requests) > before)
    return peer, h.notes.requests[-1][0]


async def test_the_address_that_a_head_names_has_limits_too(harness: MakeHarness) -> None:
    h = harness(per_address=1, trusted_proxies=[ALICE])
    peer, handle = await asked(h, ALICE)
    assert h.engine.set_peer(handle, "2001:db8::1")
    h.engine.bind(handle, b"a", b"", 1)
    assert h.engine.open(handle, OPENED, 1, 0, False)
    other, second = await asked(h, ALICE)
    assert not h.engine.set_peer(second, "2001:db8::2")
    assert (await other.rest()).startswith(b"HTTP/1.1 429 ")
    assert not h.engine.set_peer(second, "2001:db8::2"), "it was answered already"
    assert not h.engine.respond(second, b"", "http")
    _, third = await asked(h, ALICE)
    assert h.engine.set_peer(third, "203.0.113.9")
    assert not h.engine.set_peer(handle, "203.0.113.9"), "it is open already"
    peer.close()
    await h.until(lambda: not h.engine.find(b"a"))
    _, fourth = await asked(h, ALICE)
    assert h.engine.set_peer(fourth, "2001:db8::1")


async def test_an_address_counted_before_gives_way_to_the_one_named(harness: MakeHarness) -> None:
    h = harness(per_address=1)
    _, handle = await asked(h, ALICE)
    await refused_from(h, ALICE)
    assert h.engine.set_peer(handle, "203.0.113.9")
    _, second = await asked(h, ALICE)
    assert not h.engine.set_peer(second, "203.0.113.9")


async def test_without_limits_an_address_is_only_noted(harness: MakeHarness) -> None:
    h = harness()
    before = addresses.allocations()
    for _ in range(3):
        _, handle = await asked(h, ALICE)
        assert h.engine.set_peer(handle, "203.0.113.9")
    with pytest.raises(ValueError, match="not an IP address"):
        h.engine.set_peer(handle, "localhost")
    assert not h.engine.set_peer(handle ^ (1 << 40), "203.0.113.9")
    assert addresses.allocations() == before


async def test_limits_that_are_reloaded_count_from_then_on(harness: MakeHarness) -> None:
    h = harness()
    old = await open_from(h, ALICE, "old")
    h.limits.per_address = 1
    h.engine.set_limits(h.limits)
    new = await open_from(h, ALICE, "new")
    await refused_from(h, ALICE)
    old.close()
    await h.until(lambda: not h.engine.find(b"old"))
    await refused_from(h, ALICE)
    h.limits.per_address = 0
    h.engine.set_limits(h.limits)
    more = await open_from(h, ALICE, "more")
    for peer in (new, more):
        peer.close()
    await h.until(lambda: h.engine.connections == 0)
    h.limits.per_address = 1
    h.engine.set_limits(h.limits)
    await open_from(h, ALICE, "last")
    await refused_from(h, ALICE)
