"""Connections from accept to end: heads, handshakes, frames, closing handshakes, handles."""

from __future__ import annotations

import socket

import pytest
import websockets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests._fast.conftest import MakeHarness
from tests._fast.engine_support import OPENED, masked_frame
from zpush.protocol.message import Outcome

HEAD = b"GET /raw/alice HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_a_head_may_come_byte_by_byte(harness: MakeHarness) -> None:
    h = harness()
    peer = await h.connect()
    for i in range(len(HEAD)):
        await peer.send(HEAD[i : i + 1])
        if i < len(HEAD) - 1:
            await h.until(lambda i=i: h.row.get("received_bytes") == i + 1)
            assert h.notes.requests == []
    assert await peer.take(len(OPENED)) == OPENED
    handle, head, address = h.notes.requests[0]
    assert head == HEAD
    assert address == "{}:{}".format(*peer.sock.getsockname())
    assert h.engine.client(handle) == (b"alice", b"", 7)


async def test_frames_right_behind_the_head_are_read_once_open(harness: MakeHarness) -> None:
    h = harness(echo=True)
    peer = await h.connect()
    await peer.send(HEAD + masked_frame(1, b"early"))
    assert await peer.take(len(OPENED)) == OPENED
    await peer.expect_frame(1, b"early")


async def test_input_before_the_answer_is_bounded_and_kept(harness: MakeHarness) -> None:
    h = harness(echo=True, inbound_message_bytes=1 << 20)
    peer = await h.connect()
    early = masked_frame(2, b"e" * 60_000)
    await peer.send(b"GET /later HTTP/1.1\r\n\r\n")
    await h.until(lambda: h.notes.requests)
    await peer.send(early)
    handle = h.notes.requests[0][0]
    h.engine.bind(handle, b"late", b"", 1)
    assert h.engine.open(handle, OPENED, 1, 0, False)
    assert await peer.take(len(OPENED)) == OPENED
    await peer.expect_frame(2, b"e" * 60_000)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /raw/a HTTP/1.1\r\nX: " + b"x" * 2000 + b"\r\n\r\n",
        b"GET /raw/a HTTP/1.1\r\n" + b"A: b\r\n" * 30 + b"\r\n",
        b"x" * 5000,
    ],
    ids=["too long", "too many fields", "endless line"],
)
async def test_a_head_past_its_limits_is_431(harness: MakeHarness, head: bytes) -> None:
    h = harness()
    peer = await h.connect()
    await peer.send(head)
    assert (await peer.rest()).startswith(b"HTTP/1.1 431 ")
    assert h.notes.requests == []
    assert h.row.get("handshakes_too_large") == 1
    peer.close()
    await h.until(lambda: h.engine.connections == 0)


async def test_a_head_that_never_comes_times_out(harness: MakeHarness) -> None:
    h = harness()
    peer = await h.connect()
    await peer.send(b"GET /raw/a HT")
    await h.until(lambda: h.engine.connections == 1 and h.row.get("received_bytes"))
    h.engine.sweep(10)
    assert h.engine.connections == 1
    h.engine.sweep(1)
    assert await peer.rest() == b""
    assert h.row.get("handshakes_timeout") == 1


async def test_an_answer_that_never_comes_is_503(harness: MakeHarness) -> None:
    h = harness()
    peer = await h.connect()
    await peer.send(b"GET /later HTTP/1.1\r\n\r\n")
    await h.until(lambda: h.notes.requests)
    h.engine.bind(h.notes.requests[0][0], b"alice", b"", 1)
    h.engine.sweep(11)
    assert (await peer.rest()).startswith(b"HTTP/1.1 503 ")
    assert h.notes.closes == [(h.notes.requests[0][0], b"alice", b"", 0, 1006, False)]
    assert h.engine.find(b"alice") == 0


async def test_respond_answers_and_ends(harness: MakeHarness) -> None:
    h = harness()
    peer = await h.connect()
    await peer.send(b"GET /nothing HTTP/1.1\r\n\r\nand more")
    await h.until(lambda: h.notes.requests)
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    assert h.engine.respond(h.notes.requests[0][0], answer, "not_found")
    assert await peer.rest() == answer
    assert not h.engine.respond(h.notes.requests[0][0], answer, "not_found"), "answered twice"
    assert h.row.get("handshakes_not_found") == 1


async def test_a_dead_handle_is_an_answer(harness: MakeHarness) -> None:
    h = harness()
    peer = await h.open("raw/alice")
    old = h.engine.find(b"alice")
    peer.reset()
    await h.until(lambda: h.engine.connections == 0)
    again = await h.open("raw/alice")
    assert h.engine.find(b"alice") not in (0, old), "the slot is the same, the generation is not"
    assert h.engine.client(old) is None
    assert not h.engine.close(old, 1000)
    assert not h.engine.send(old, 1, b"x")
    assert not h.engine.open(old, OPENED, 1, 0, False)
    with pytest.raises(KeyError):
        h.engine.bind(old, b"mallory", b"", 1)
    h.engine.set_epoch(old, 99)
    assert h.engine.client(h.engine.find(b"alice")) == (b"alice", b"", 7)
    again.close()


async def test_a_newer_connection_takes_the_id_and_the_older_one_cannot_take_it_back(harness: MakeHarness) -> None:
    h = harness()
    first = await h.open("raw/alice")
    old = h.engine.find(b"alice")
    second = await h.open("raw/alice")
    new = h.engine.find(b"alice")
    assert new != old
    assert h.engine.deliver_many([(b"alice", b"1", b"hi", 1)])[0] == bytes([Outcome.DELIVERED])
    await second.expect_frame(1, b"hi")
    assert h.engine.close(old, 4002, b"replaced")
    await first.expect_frame(8, b"\x0f\xa2replaced")
    assert h.engine.find(b"alice") == new
    assert h.notes.closes[0] == (old, b"alice", b"", 7, 4002, True)


async def test_the_clients_closing_handshake_is_answered_with_its_code(harness: MakeHarness) -> None:
    h = harness()
    peer = await h.open("raw/alice")
    await peer.send_frame(8, b"\x03\xe8bye")
    await peer.expect_frame(8, b"\x03\xe8")
    assert await peer.rest() == b""
    assert h.notes.closes[0][4] == 1000
    peer.close()
    await h.until(lambda: h.engine.connections == 0)
    assert h.row.get("closes_1000") == 1


async def test_our_closing_handshake_waits_for_the_clients_half(harness: MakeHarness) -> None:
    h = harness()
    peer = await h.open("raw/alice")
    h.engine.close_client(b"alice", 0, 4005)
    await peer.expect_frame(8, b"\x0f\xa5")
    assert h.engine.find(b"alice") == 0
    await peer.send_frame(1, b"still talking")
    await peer.send_frame(8, b"\x0f\xa5")
    assert await peer.rest() == b""
    assert h.notes.messages == []


async def test_a_client_that_never_answers_our_close_is_ended(harness: MakeHarness) -> None:
    h = harness()
    peer = await h.open("raw/alice")
    h.engine.close_client(b"alice", 0, 4005)
    await peer.expect_frame(8, b"\x0f\xa5")
    h.engine.sweep(6)
    assert await peer.rest() == b""
    assert h.engine.connections == 0


async def test_close_client_spares_a_newer_epoch(harness: MakeHarness) -> None:
    h = harness()
    await h.open("raw/alice")
    assert not h.engine.close_client(b"alice", 6, 4002)
    assert h.engine.close_client(b"alice", 7, 4002)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x05hello", 1002),
        (masked_frame(3, b""), 1002),
        (b"\xc1\x80\x11\x22\x33\x44", 1002),
        (masked_frame(1, b"\xff"), 1007),
        (masked_frame(2, b"x" * 5000), 1009),
        (masked_frame(8, b"\x03"), 1002),
        (masked_frame(8, b"\x03\xed"), 1002),
        (masked_frame(9, b"x" * 126), 1002),
        (masked_frame(0, b"lone"), 1002),
        (b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\x11\x22\x33\x44", 1002),
    ],
    ids=["unmasked", "opcode 3", "RSV1", "UTF-8", "too big", "close with 1 byte", "1005", "long ping", "lone", "2^63"],
)
async def test_protocol_errors_are_closed_with_their_code(harness: MakeHarness, frame: bytes, code: int) -> None:
    h = harness()
    peer = await h.open("raw/alice")
    await peer.send(frame)
    answer = await peer.rest()
    assert answer[0] == 0x88
    assert int.from_bytes(answer[2:4], "big") == code
    assert len(answer) > 4, "a developer reads the reason"
    assert h.notes.closes[0][4] == code
    peer.close()
    await h.until(lambda: h.engine.connections == 0)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=400))
async def test_no_bytes_crash_or_leak(harness: MakeHarness, data: bytes) -> None:
    h = harness()
    peer = await h.open("raw/fuzz")
    await peer.send(data)
    peer.close()
    await h.until(lambda: h.engine.connections == 0)


async def test_the_websockets_library_is_content(harness: MakeHarness) -> None:
    """A client not ours: echo, fragments, ping, a close from either side."""
    import base64
    import hashlib

    h = harness(echo=True, inbound_message_bytes=1 << 20)

    def on_request(handle: int, head: bytes, peer: str) -> None:
        key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))[19:].strip()
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        h.engine.bind(handle, b"alice", b"", 1)
        head = (
            b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n" % accept
        )
        h.engine.open(handle, head, 1, 0, False)

    h.notes.on_request = on_request  # type: ignore[method-assign]
    h.rebuild()
    async with websockets.connect("ws://{}:{}/".format(*h.address), compression=None, max_size=None) as client:
        for message in ("", "häßlich", "x" * 70_000, b"", b"\0" * 65_536):
            await client.send(message)
            assert await client.recv() == message
        await client.send(["in ", "three ", "pieces"])
        assert await client.recv() == "in three pieces"
        await (await client.ping(b"are you there"))
        h.engine.close_client(b"alice", 0, 4005)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4005


async def test_a_listener_that_cannot_accept_rests_until_the_next_sweep(harness: MakeHarness) -> None:
    h = harness()
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.setblocking(False)
        h.engine.add_listener(other.fileno())
        other.shutdown(socket.SHUT_RDWR)  # as the master takes a slot out of its group
        h.engine.poll()
        with socket.create_server(("127.0.0.1", 0)) as late:
            late.setblocking(False)
            h.engine.add_listener(late.fileno())
            other.listen()
            h.engine.sweep(1)
            for address in (h.address, other.getsockname(), late.getsockname()):
                with socket.create_connection(address):
                    accepted = h.row.get("accepted")
                    await h.until(lambda: h.row.get("accepted") == accepted + 1)  # noqa: B023
            h.engine.remove_listener(late.fileno())
        h.engine.remove_listener(other.fileno())


async def test_a_full_slab_closes_at_once_and_recovers(harness: MakeHarness) -> None:
    h = harness(capacity=2)
    first, second = await h.open("raw/a"), await h.open("raw/b")
    third = await h.connect()
    assert await third.rest() == b""
    first.close()
    await h.until(lambda: h.engine.connections == 1)
    await h.open("raw/c")
    second.close()


async def test_an_id_goes_back_when_the_newer_connection_dies_before_it_opens(harness: MakeHarness) -> None:
    h = harness()
    first = await h.open("raw/alice")
    old = h.engine.find(b"alice")
    peer = await h.connect()
    await peer.send(b"GET /later HTTP/1.1\r\n\r\n")
    await h.until(lambda: len(h.notes.requests) == 2)
    h.engine.bind(h.notes.requests[1][0], b"alice", b"", 1)
    assert not h.engine.rebind(old), "it leads to the newer one"
    peer.reset()
    await h.until(lambda: h.notes.closes)
    assert h.engine.find(b"alice") == 0
    assert h.engine.rebind(old)
    assert h.engine.deliver_many([(b"alice", b"1", b"hi", 1)])[0] == bytes([Outcome.DELIVERED])
    await first.expect_frame(1, b"hi")


async def test_a_busy_client_whose_reads_end_within_frames_is_not_slow(harness: MakeHarness) -> None:
    h = harness(echo=True, keepalive_s=30, pong_timeout_s=30)
    peer = await h.open("raw/alice")
    frame = masked_frame(1, b"x" * 100)
    await peer.send(frame[:50])
    for _ in range(10):
        await peer.send(frame[50:] + frame[:50])
        await peer.expect_frame(1, b"x" * 100)
        h.engine.sweep(20)
    assert h.notes.closes == []


async def test_a_message_that_does_not_end_is_not_waited_for(harness: MakeHarness) -> None:
    h = harness(keepalive_s=30, pong_timeout_s=30)
    peer = await h.open("raw/alice")
    await peer.send(masked_frame(1, b"begin", fin=False))
    await h.until(lambda: h.row.get("received_bytes") > len(HEAD))
    for pongs in range(1, 5):
        h.engine.sweep(20)
        await peer.send_frame(10, b"")
        await h.until(lambda pongs=pongs: h.row.get("frames_received") == pongs)
    assert b"message not complete in time" in await peer.rest()


async def test_heads_past_the_budget_are_refused_and_readers_are_spared(harness: MakeHarness) -> None:
    h = harness(unsent_budget_bytes=65536, head_bytes=8192)
    peers = [await h.connect() for _ in range(40)]
    for peer in peers:
        await peer.send(b"GET / HTTP/1.1\r\nX: " + b"x" * 4000)
    await h.until(lambda: h.row.get("received_bytes") == 40 * 4019)
    refused = 0
    for peer in peers:
        peer.sock.setblocking(False)
        try:
            refused += peer.sock.recv(100).startswith(b"HTTP/1.1 503")
        except BlockingIOError:
            pass
    assert 0 < refused < 40
    for peer in peers:
        peer.close()


async def test_a_callback_that_sends_loses_nothing(harness: MakeHarness) -> None:
    h = harness()
    on_close = h.notes.on_close

    def deliver(*args: object) -> None:
        on_close(*args)  # type: ignore[arg-type]
        h.engine.deliver_many([(b"second", b"1", b"first is gone", 1)])
        h.engine.flush()

    h.notes.on_close = deliver  # type: ignore[method-assign]
    h.rebuild()
    first, second = await h.open("raw/first"), await h.open("raw/second")
    first.reset()
    h.engine.deliver_many([(b"first", b"0", b"x", 1), (b"first", b"0", b"x", 1)])
    await second.expect_frame(1, b"first is gone")
    h.engine.deliver_many([(b"second", b"2", b"again", 1)])
    await second.expect_frame(1, b"again")
