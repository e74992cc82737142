"""PROXY headers over sockets. 127.0.0.1 is the load balancer; 127.0.0.9 is somebody else."""

from __future__ import annotations

import socket

import pytest

from tests._fast.conftest import MakeHarness
from tests._fast.engine_support import OPENED, Harness, Peer
from tests._fast.proxy_support import LOCAL, SIGNATURE, tlv, v1, v2, v2_from

HEAD = b"GET /raw/alice HTTP/1.1\r\nHost: x\r\n\r\n"
BEHIND_ONE = {"proxy_protocol": True, "trusted_proxies": ["127.0.0.1/32", "10.0.0.0/8"]}


async def connect_from(h: Harness, source: str) -> Peer:
    sock = socket.socket()
    sock.bind((source, 0))
    sock.setblocking(False)
    await h.loop.sock_connect(sock, h.address)
    return Peer(h.loop, sock)


async def peer_of(h: Harness, header: bytes) -> str:
    """Whom the engine takes the client for."""
    peer = await h.connect()
    await peer.send(header + HEAD)
    assert await peer.take(len(OPENED)) == OPENED
    _, head, found = h.notes.requests[-1]
    assert head == HEAD
    own = "{}:{}".format(*peer.sock.getsockname())
    peer.close()
    await h.until(lambda: h.engine.connections == 0)
    return "own" if found == own else found


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (v1("TCP4", "203.0.113.9", "10.0.0.1", 51234, 443), "203.0.113.9:51234"),
        (v1("TCP6", "2001:db8::9", "2001:db8::1", 51234, 443), "[2001:db8::9]:51234"),
        (b"PROXY UNKNOWN\r\n", "own"),
        (v2_from("203.0.113.9", 51234), "203.0.113.9:51234"),
        (v2_from("2001:db8::9", 51234, tlv(4, b"x" * 700)), "[2001:db8::9]:51234"),
        (v2_from("::ffff:203.0.113.9", 51234), "203.0.113.9:51234"),
        (LOCAL, "own"),
        (v2(0x21, 0x31, bytes(216)), "own"),
    ],
    ids=["v1 IPv4", "v1 IPv6", "v1 unknown", "v2 IPv4", "v2 IPv6 with TLVs", "v2 mapped", "v2 local", "v2 unix"],
)
async def test_the_client_is_whom_the_header_names(harness: MakeHarness, header: bytes, found: str) -> None:
    assert await peer_of(harness(**BEHIND_ONE), header) == found


@pytest.mark.parametrize("header", [v1("TCP4", "203.0.113.9", "10.0.0.1", 1, 2), v2_from("203.0.113.9", 1)])
async def test_cut_at_every_byte(harness: MakeHarness, header: bytes) -> None:
    h = harness(**BEHIND_ONE, head_bytes=len(HEAD))
    for cut in range(1, len(header) + 2):
        peer = await h.connect()
        before = h.row.get("received_bytes")
        await peer.send((header + HEAD)[:cut])
        await h.until(lambda: h.row.get("received_bytes") == before + cut)  # noqa: B023
        await peer.send((header + HEAD)[cut:])
        assert await peer.take(len(OPENED)) == OPENED
        assert h.notes.requests[-1][1:] == (HEAD, "203.0.113.9:1")
        peer.close()
    await h.until(lambda: h.engine.connections == 0)
    assert h.row.get("handshakes_proxy") == 0


async def test_byte_by_byte(harness: MakeHarness) -> None:
    h = harness(**BEHIND_ONE)
    peer = await h.connect()
    data = v2_from("203.0.113.9", 1, tlv(4, b"abc")) + HEAD
    peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for i in range(len(data)):
        await peer.send(data[i : i + 1])
        await h.until(lambda: h.row.get("received_bytes") == i + 1)  # noqa: B023
    assert await peer.take(len(OPENED)) == OPENED
    assert h.notes.requests[-1][1:] == (HEAD, "203.0.113.9:1")
    peer.close()


@pytest.mark.parametrize(
    "data",
    [
        HEAD,
        b"PROXY TCP4 203.0.113.9\r\n" + HEAD,
        b"PROXY UNKNOWN " + b"x" * 4096 + b"\r\n",
        SIGNATURE + b"\x21\x11\x10\x00" + bytes(4096),
        SIGNATURE + b"\x21\x11\x00\x04" + bytes(4),
        b"\x16\x03\x01",
        bytes(60000),
    ],
    ids=["none", "malformed line", "4 KiB line", "4 KiB header", "too short", "TLS", "zeros"],
)
async def test_what_is_no_header_ends_the_connection_at_once(harness: MakeHarness, data: bytes) -> None:
    h = harness(**BEHIND_ONE)
    peer = await h.connect()
    await peer.send(data)
    assert await peer.rest() == b""
    assert h.engine.connections == 0
    assert h.row.get("handshakes_proxy") == 1
    assert h.notes.requests == []


@pytest.mark.parametrize("header", [v1("TCP4", "203.0.113.9", "10.0.0.1", 51234, 443), v2_from("203.0.113.9", 51234)])
async def test_half_a_header_and_the_end(harness: MakeHarness, header: bytes) -> None:
    h = harness(**BEHIND_ONE)
    for cut in (1, 5, len(header) - 1):
        peer = await h.connect()
        await peer.send(header[:cut])
        peer.close()
    await h.until(lambda: h.row.get("accepted") == 3 and h.engine.connections == 0)
    assert h.row.get("handshakes_proxy") == 3


async def test_a_health_check_that_says_nothing_is_no_error(harness: MakeHarness) -> None:
    h = harness(**BEHIND_ONE)
    (await h.connect()).close()
    await h.until(lambda: h.row.get("accepted") == 1 and h.engine.connections == 0)
    assert h.row.get("handshakes_proxy") == 0


async def test_half_a_header_and_silence_is_a_timeout(harness: MakeHarness) -> None:
    h = harness(**BEHIND_ONE)
    peer = await h.connect()
    await peer.send(b"PROXY TCP4")
    await h.until(lambda: h.row.get("received_bytes") == 10)
    h.engine.sweep(11)
    assert await peer.rest() == b""
    assert h.row.get("handshakes_timeout") == 1


async def test_the_heads_limit_counts_from_behind_the_header(harness: MakeHarness) -> None:
    h = harness(**BEHIND_ONE, head_bytes=1024)
    header = v2_from("203.0.113.9", 1, tlv(4, bytes(900)))
    filler = b"X: " + b"x" * (1024 - len(HEAD) - 5) + b"\r\n"
    head = HEAD[:-2] + filler + b"\r\n"
    assert len(head) == 1024
    peer = await h.connect()
    await peer.send(header + head)
    assert await peer.take(len(OPENED)) == OPENED
    peer.close()
    peer = await h.connect()
    await peer.send(header + head[:-4] + b"x\r\n\r\n")
    assert (await peer.rest()).startswith(b"HTTP/1.1 431 ")
    peer.close()


@pytest.mark.parametrize("header", [v1("TCP4", "203.0.113.9", "10.0.0.1", 1, 2), v2_from("203.0.113.9", 1)])
async def test_from_others_a_header_is_but_a_malformed_head(harness: MakeHarness, header: bytes) -> None:
    h = harness(**BEHIND_ONE)
    peer = await connect_from(h, "127.0.0.9")
    await peer.send(header + HEAD)
    await h.until(lambda: h.notes.requests)
    _, head, found = h.notes.requests[0]
    assert head == (header + HEAD)[: len(head)]  # all of it is Python's to refuse
    assert head.startswith(header[:4])
    assert found.startswith("127.0.0.9:")
    peer.close()


async def test_others_need_none(harness: MakeHarness) -> None:
    h = harness(**BEHIND_ONE)
    peer = await connect_from(h, "127.0.0.9")
    await peer.send(HEAD)
    assert await peer.take(len(OPENED)) == OPENED
    peer.close()


async def test_without_the_setting_nobody_is_asked(harness: MakeHarness) -> None:
    h = harness(trusted_proxies=["127.0.0.1"])
    assert await peer_of(h, b"") == "own"
    peer = await h.connect()
    await peer.send(v2_from("203.0.113.9", 1) + HEAD)
    await h.until(lambda: len(h.notes.requests) == 2)
    assert h.notes.requests[1][2].startswith("127.0.0.1:")
    peer.close()


async def test_a_reload_counts_for_those_who_come_later(harness: MakeHarness) -> None:
    h = harness()
    early = await h.connect()
    await h.until(lambda: h.engine.connections == 1)
    h.limits.proxy_protocol, h.limits.trusted_proxies = True, ["127.0.0.0/8"]
    h.engine.set_limits(h.limits)
    await early.send(HEAD)
    assert await early.take(len(OPENED)) == OPENED
    early.close()
    await h.until(lambda: h.engine.connections == 0)
    assert await peer_of(h, v2_from("203.0.113.9", 7)) == "203.0.113.9:7"


async def test_frames_right_behind_are_frames(harness: MakeHarness) -> None:
    h = harness(**BEHIND_ONE, echo=True)
    peer = await h.connect()
    await peer.send(v2_from("203.0.113.9", 1) + HEAD + b"\x81\x82\0\0\0\0hi")
    assert await peer.take(len(OPENED)) == OPENED
    await peer.expect_frame(1, b"hi")
    peer.close()
