"""Peers that are not there, not who they should be, mute, or malicious: each gets its bounded answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.delivery.raw import ended, greet, owner, read_frame, welcome
from tests.delivery.world import SECRET, Answers, Box, caller, entries
from tests.support import eventually, free_port
from zpush.delivery.peer_frames import (
    LENGTH_BYTES,
    MAX_FRAME_BYTES,
    Closed,
    Counts,
    Deliver,
    FrameReader,
    Outcomes,
    PeerProtocolError,
    SettledLater,
    decode_answer,
    decode_request,
    encode,
)
from zpush.delivery.peer_hello import NONCE_BYTES, CallerHello, Challenge, Hello, OwnerHello, Welcome
from zpush.delivery.peers import Peers, PeerServer
from zpush.errors import ConfigError, PeerUnreachable
from zpush.protocol.message import Message, Outcome, Priority
from zpush.registry.base import Node, NodeState

DELIVERED, PENDING, NOT_HERE = int(Outcome.DELIVERED), int(Outcome.PENDING), int(Outcome.NOT_HERE)


@pytest.fixture
async def peers() -> AsyncIterator[Peers]:
    peers = caller()
    yield peers
    await peers.stop()


@pytest.fixture
async def box() -> AsyncIterator[Box]:
    box = await Box("owner", "c1", "c2", "slow").listen()
    yield box
    await box.die()


class Lines(logging.Handler):
    """The log lines of the peers, wherever the logger's own go."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.getMessage()} {getattr(record, 'fields', '')}")


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    handler = Lines()
    logger = logging.getLogger("zpush.peers")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(level)


# ---- the other side is not there, or not who it should be


async def test_nobody_listens(peers: Peers) -> None:
    node = Node("owner", f"127.0.0.1:{free_port()}", "local", NodeState.UP)
    answers = Answers()
    peers.deliver(node, Priority.HIGH, entries(("c1", "m1")), answers)
    assert (await answers.error).refused
    with pytest.raises(PeerUnreachable):
        await peers.broadcast(node, Message("m", "", b""))


@pytest.mark.parametrize("address", ["", "nowhere", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:99999999"])
async def test_an_address_that_is_none(peers: Peers, address: str) -> None:
    with pytest.raises(PeerUnreachable) as caught:
        await peers.close(Node("owner", address, "local", NodeState.UP), "c1", 0, 4005)
    assert not caught.value.refused


async def test_another_incarnation_on_the_same_port(box: Box, peers: Peers) -> None:
    """A dead worker's port is taken by its successor: the dead one is refused, whoever listens."""
    answers = Answers()
    peers.deliver(msgspec.structs.replace(box.node, id="before"), Priority.HIGH, entries(("c1", "m1")), answers)
    assert (await answers.error).refused
    assert box.table.got == []


async def test_a_caller_with_the_wrong_secret(box: Box, log_lines: list[str]) -> None:
    stranger = Peers(b"another secret", "stranger")
    for _ in range(5):
        with pytest.raises(PeerUnreachable) as caught:
            await stranger.close(box.node, "c1", 0, 4005)
        assert not caught.value.refused and "secret" in str(caught.value)
    assert box.table.closed == []
    await eventually(lambda: box.server.connections == 0)
    assert len([line for line in log_lines if line.startswith("dropped a caller")]) == 1
    assert len([line for line in log_lines if line.startswith("lost a peer")]) == 1
    assert not any("another secret" in line or SECRET.decode() in line for line in log_lines)
    await stranger.stop()


async def test_an_owner_that_leaves_when_nothing_is_under_way_is_no_warning(box: Box, log_lines: list[str]) -> None:
    peers = caller()
    assert not await peers.close(box.node, "nobody", 0, 4005)
    await box.die()
    await eventually(lambda: any(line.startswith("a peer has left") for line in log_lines))
    assert not any(line.startswith("lost a peer") for line in log_lines)
    await peers.stop()


async def test_an_owner_with_the_wrong_secret(peers: Peers) -> None:
    """It cannot check the proof, claims to have done so, and asks for the messages: it gets none."""
    more: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = OwnerHello(b"not the secret", "owner")
        writer.write(hello.greeted(await read_frame(reader))[0])
        await read_frame(reader)
        writer.write(encode(Welcome(bytes(32))))
        more.set_result(await reader.read())

    async with owner(serve) as node:
        with pytest.raises(PeerUnreachable, match="does not know the secret"):
            await peers.close(node, "c1", 0, 4005)
        assert await more == b""


def test_an_empty_secret_is_refused_at_once() -> None:
    with pytest.raises(ConfigError):
        Peers(b"", "caller")
    with pytest.raises(ConfigError):
        PeerServer(None, b"", "owner")  # type: ignore[arg-type]


async def test_a_caller_of_another_version_is_told_ours(box: Box) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", box.port)
    writer.write(encode(["zpush hello", 2, "what", "version", "2", "says"]))
    kind, version, node_id, _ = msgspec.msgpack.decode(await read_frame(reader))
    assert (kind, version, node_id) == ("zpush challenge", 1, "owner")
    assert await ended(reader)
    writer.close()


async def test_an_owner_of_another_version(peers: Peers) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_frame(reader)
        writer.write(encode(["zpush challenge", 7, {"more": "than we know"}]))
        await ended(reader)

    async with owner(serve) as node:
        with pytest.raises(PeerUnreachable, match="version 7"):
            await peers.close(node, "c1", 0, 4005)


@pytest.mark.parametrize("said", [b"", b"\x00", encode(Hello(1, "raw", "owner", Priority.LOW, bytes(NONCE_BYTES)))])
async def test_a_caller_that_hangs_in_its_hello(said: bytes) -> None:
    box = await Box("owner", hello_timeout_s=0.2).listen()
    reader, writer = await asyncio.open_connection("127.0.0.1", box.port)
    writer.write(said)
    assert await ended(reader)
    assert box.server.connections == 0
    writer.close()
    await box.die()


async def test_an_owner_that_hangs_in_its_hello() -> None:
    peers = caller(hello_timeout_s=0.1)
    async with owner(lambda reader, writer: ended(reader)) as node:
        with pytest.raises(PeerUnreachable, match="no hello within"):
            await peers.close(node, "c1", 0, 4005)
    await peers.stop()


async def test_an_owner_that_never_answers() -> None:
    peers = caller(answer_timeout_s=0.05)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await welcome(reader, writer)
        await ended(reader)

    async with owner(serve) as node:
        first, second = Answers(), Answers()
        peers.deliver(node, Priority.LOW, entries(("c1", "m1")), first)
        peers.deliver(node, Priority.LOW, entries(("c1", "m2")), second)
        assert "did not answer in time" in str(await first.error)
        assert not (await second.error).refused
    await peers.stop()


async def test_an_owner_that_never_settles(box: Box) -> None:
    peers = caller(settle_timeout_s=0.05)
    box.table.answers["slow"] = Outcome.PENDING
    answers = Answers()
    peers.deliver(box.node, Priority.LOW, entries(("slow", "m1")), answers)
    assert await answers.first == [PENDING]
    assert "did not answer in time" in str(await answers.error)
    await peers.stop()


# ---- garbage

FRAMES_THAT_ARE_NO_ANSWER = {
    "not msgpack": b"\xc1" * 8,
    "not an array": msgspec.msgpack.encode({"kind": 17}),
    "an unknown kind": msgspec.msgpack.encode([99, 1, b""]),
    "a request": msgspec.msgpack.encode(Deliver(1, [])),
    "nested without end": b"\x91" * 100_000,
    "a number that is none": msgspec.msgpack.encode([17, -1, b""]),
    "an unknown request": msgspec.msgpack.encode(Outcomes(12345, b"\x01")),
    "too few outcomes": msgspec.msgpack.encode(Outcomes(1, b"\x01")),
    "too many outcomes": msgspec.msgpack.encode(Outcomes(1, b"\x01\x01\x01")),
    "an outcome that is none": msgspec.msgpack.encode(Outcomes(1, b"\x01\x63")),
    "counts for a delivery": msgspec.msgpack.encode(Counts(1, {})),
    "settled before answered": msgspec.msgpack.encode(SettledLater(1, [(0, 1)])),
}


@pytest.mark.parametrize("body", FRAMES_THAT_ARE_NO_ANSWER.values(), ids=FRAMES_THAT_ARE_NO_ANSWER.keys())
async def test_an_owner_that_answers_garbage(peers: Peers, body: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await welcome(reader, writer)
        await read_frame(reader)
        writer.write(len(body).to_bytes(LENGTH_BYTES, "big") + body)
        await ended(reader)

    async with owner(serve) as node:
        answers = Answers()
        peers.deliver(node, Priority.NORMAL, entries(("c1", "m1"), ("c2", "m2")), answers)
        assert not (await asyncio.wait_for(answers.error, 30)).refused
        assert not answers.first.done()


@pytest.mark.parametrize("settled", [[(0, 1)], [(2, 1)], [(1, 0)], [(1, 99)], [(1, 1), (1, 1)]])
async def test_an_owner_that_settles_what_is_not_pending(peers: Peers, settled: list[tuple[int, int]]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await welcome(reader, writer)
        await read_frame(reader)
        writer.write(encode(Outcomes(1, bytes([DELIVERED, PENDING]))) + encode(SettledLater(1, settled)))
        await ended(reader)

    async with owner(serve) as node:
        answers = Answers()
        peers.deliver(node, Priority.NORMAL, entries(("c1", "m1"), ("c2", "m2")), answers)
        await asyncio.wait_for(answers.error, 30)
        assert answers.later == []


@pytest.mark.parametrize("answer", [Outcomes(1, b""), Closed(1, True), Counts(1, {99: 1})])
async def test_a_broadcast_answered_with_something_else(peers: Peers, answer: msgspec.Struct) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await welcome(reader, writer)
        await read_frame(reader)
        writer.write(encode(answer))
        await ended(reader)

    async with owner(serve) as node:
        with pytest.raises(PeerUnreachable):
            await asyncio.wait_for(peers.broadcast(node, Message("m", "", b"")), 30)


async def test_an_oversized_length_ends_the_connection_before_a_byte_of_it_is_kept(box: Box, peers: Peers) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", box.port)
    writer.write((1025).to_bytes(LENGTH_BYTES, "big"))  # a stranger
    assert await ended(reader)
    writer.close()
    reader, writer = await greet(box)
    writer.write((MAX_FRAME_BYTES + 1).to_bytes(LENGTH_BYTES, "big"))
    assert await ended(reader)
    writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await welcome(reader, writer)
        writer.write(b"\xff\xff\xff\xff")
        await ended(reader)

    async with owner(serve) as node:
        with pytest.raises(PeerUnreachable, match="4294967295 bytes"):
            await peers.close(node, "c1", 0, 4005)


@pytest.mark.parametrize(
    "body",
    [
        b"GET / HTTP/1.1\r\n",
        msgspec.msgpack.encode(Outcomes(1, b"")),
        msgspec.msgpack.encode([1, 1, [["c1", "m1", b"", 9, 0]]]),
        msgspec.msgpack.encode([1, 1, [["x" * 256, "m1", b"", 1, 0]]]),
        msgspec.msgpack.encode([1, 1, [["", "m1", b"", 1, 0]]]),
        msgspec.msgpack.encode([3, 1, "c1", 0, 99]),
        b"\x91" * 100_000,
    ],
)
async def test_a_caller_that_sends_garbage_is_dropped_and_nobody_else(box: Box, peers: Peers, body: bytes) -> None:
    before = Answers()
    peers.deliver(box.node, Priority.NORMAL, entries(("c1", "m1")), before)
    await before.first
    reader, writer = await greet(box, "bad")
    writer.write(len(body).to_bytes(LENGTH_BYTES, "big") + body)
    assert await ended(reader)
    writer.close()
    after = Answers()
    peers.deliver(box.node, Priority.NORMAL, entries(("c1", "m2")), after)
    assert await after.first == [DELIVERED]


async def test_strangers_are_few(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zpush.delivery.peer_server.MAX_STRANGERS", 2)
    opened = [await asyncio.open_connection("127.0.0.1", box.port) for _ in range(3)]
    assert await ended(opened[2][0])  # before the hello's deadline: the others may still speak
    assert not any(reader.at_eof() for reader, _ in opened[:2])
    for _, writer in opened:
        writer.close()


# ---- sans-IO


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(1, 30), max_size=30))
def test_frames_at_any_split(bodies: list[bytes], cuts: list[int]) -> None:
    data = b"".join(len(body).to_bytes(LENGTH_BYTES, "big") + body for body in bodies)
    reader, read = FrameReader(40), []
    for cut in [*cuts, len(data)]:
        piece, data = data[:cut], data[cut:]
        reader.feed(piece)
        read += iter(reader.next, None)
    assert read == bodies


@given(st.binary(max_size=200))
def test_garbage_is_a_protocol_error_and_nothing_else(data: bytes) -> None:
    owner, caller = OwnerHello(SECRET, "owner"), CallerHello(SECRET, "caller", "owner", Priority.LOW)
    for take in (decode_request, decode_answer, owner.greeted, owner.proved, caller.challenged):
        try:
            take(data)
        except PeerProtocolError:
            pass


def test_a_proof_cannot_be_mirrored_or_moved_to_another_hello() -> None:
    caller_side = CallerHello(SECRET, "caller", "owner", Priority.LOW)
    owner_side, other = OwnerHello(SECRET, "owner"), OwnerHello(SECRET, "owner")
    challenge, _ = owner_side.greeted(caller_side.first[LENGTH_BYTES:])
    other.greeted(caller_side.first[LENGTH_BYTES:])
    proof = caller_side.challenged(challenge[LENGTH_BYTES:])[LENGTH_BYTES:]
    with pytest.raises(PeerProtocolError, match="secret"):
        other.proved(proof)  # another nonce
    mirrored = proof.replace(b"zpush proof", b"zpush welcome").replace(b"\xabzpush welcome", b"\xadzpush welcome")
    with pytest.raises(PeerProtocolError, match="secret"):
        caller_side.welcomed(mirrored)
    caller_side.welcomed(owner_side.proved(proof)[LENGTH_BYTES:])


def test_a_challenge_of_the_wrong_shape() -> None:
    hello = CallerHello(SECRET, "caller", "owner", Priority.LOW)
    with pytest.raises(PeerProtocolError):
        hello.challenged(encode(Challenge(1, "owner", b"short"))[LENGTH_BYTES:])
