"""What peers send each other: frames, requests, answers, the hello (zpush/delivery/peer_*.py)."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st

from tests.fuzz.target import CUTS, Target, damaged, pieces
from zpush.delivery import peer_frames
from zpush.delivery.base import MAX_ACK_WAIT_MS, Entry
from zpush.delivery.peer_frames import (
    LENGTH_BYTES,
    Broadcast,
    Close,
    Closed,
    Counts,
    Deliver,
    FrameReader,
    Outcomes,
    PeerProtocolError,
    SettledLater,
    check_outcomes,
    decode_answer,
    decode_request,
)
from zpush.delivery.peer_hello import CallerHello, OwnerHello
from zpush.errors import PeerUnreachable
from zpush.protocol.message import MAX_TOKEN_CHARACTERS, Priority

NUMBERS = st.sampled_from([0, 1, 2, 3, 17, 255, 1000, 4999, 2**31, 2**32 - 1, 2**63 - 1])
IDS = st.text(min_size=1, max_size=4)
ACK_WAITS = st.sampled_from([0, 1, MAX_ACK_WAIT_MS, MAX_ACK_WAIT_MS + 1])
TOKENS = st.sampled_from(["", "x", "é", "x" * MAX_TOKEN_CHARACTERS, "x" * (MAX_TOKEN_CHARACTERS + 1)])
ENTRIES = st.builds(Entry, IDS, IDS, st.binary(max_size=8), st.integers(1, 3), NUMBERS, ACK_WAITS, TOKENS)
VALUES = st.one_of(
    st.builds(Deliver, NUMBERS, st.lists(ENTRIES, max_size=3)),
    st.builds(Broadcast, NUMBERS, IDS, st.binary(max_size=8), st.integers(1, 3)),
    st.builds(Close, NUMBERS, IDS, NUMBERS, st.sampled_from([1000, 4005])),
    st.builds(Outcomes, NUMBERS, st.binary(max_size=4)),
    st.builds(SettledLater, NUMBERS, st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=3)),
    st.builds(Counts, NUMBERS, st.dictionaries(st.integers(0, 9), NUMBERS, max_size=3)),
    st.builds(Closed, NUMBERS, st.booleans()),
).map(peer_frames.encode)
NESTED = st.sampled_from(
    [b"\x91" * 100, b"\x91" * 5000, b"\x92\x01" * 2000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"]
)
STREAMS = damaged(st.lists(st.one_of(VALUES, NESTED, st.binary(max_size=12)), max_size=4).map(b"".join))
LIMITS = st.sampled_from([4, 64, 1024, 1 << 24])


def check_frames(value: tuple[bytes, tuple[int, ...], int]) -> None:
    """Whole or in pieces: the same frames; each is a request, an answer, or the end of the connection."""
    stream, cuts, limit = value
    whole = read([stream], limit)
    assert read(pieces(stream, cuts), limit) == whole
    for body in whole:
        check_body(body)


def read(parts: list[bytes], limit: int) -> list[bytes]:
    reader = FrameReader(limit)
    bodies: list[bytes] = []
    try:
        for part in parts:
            reader.feed(part)
            while (body := reader.next()) is not None:
                bodies.append(body)
    except PeerProtocolError:
        bodies.append(b"")
    return bodies


def check_body(body: bytes) -> None:
    """Taken means understood, and within its bounds: it is the same again once written anew."""
    for decode in (decode_request, decode_answer):
        try:
            value = decode(body)
        except PeerProtocolError:
            continue
        assert decode(peer_frames.encode(value)[LENGTH_BYTES:]) == value
        if isinstance(value, Deliver):
            assert all(entry.ack_wait_ms <= MAX_ACK_WAIT_MS for entry in value.entries)
            assert all(len(entry.secure_token) <= MAX_TOKEN_CHARACTERS for entry in value.entries)
        if isinstance(value, Outcomes):
            try:
                check_outcomes(value.outcomes, len(value.outcomes))
            except PeerProtocolError:
                pass


def check_hello(value: tuple[bytes, bytes]) -> None:
    """Who does not know the secret gets nowhere, whatever is sent."""
    first, second = value
    for hello, proof in ((first, second), (_real_hello(), second)):
        owner = OwnerHello(b"secret", "owner")
        try:
            _, same_version = owner.greeted(hello)
            if same_version:
                owner.proved(proof)
                raise AssertionError("a stranger was welcomed")
        except PeerProtocolError:
            pass
    for challenge, welcome in ((first, second), (_real_challenge(), second)):
        caller = CallerHello(b"secret", "caller", "owner", Priority.LOW)
        try:
            caller.challenged(challenge)
            caller.welcomed(welcome)
            raise AssertionError("a stranger was believed")
        except (PeerProtocolError, PeerUnreachable):
            pass


def _real_hello() -> bytes:
    return CallerHello(b"other", "caller", "owner", Priority.LOW).first[LENGTH_BYTES:]


def _real_challenge() -> bytes:
    return OwnerHello(b"other", "owner").greeted(_real_hello())[0][LENGTH_BYTES:]


_PARTS = st.one_of(
    st.sampled_from(["zpush hello", "zpush challenge", "zpush proof", "zpush welcome", "caller", ""]),
    st.integers(-1, 3),
    st.binary(max_size=4),
    st.sampled_from([bytes(32), bytes(31), bytes(33)]),
    st.none(),
    st.lists(st.integers(0, 3), max_size=2),
)
HELLOS = damaged(
    st.one_of(
        st.lists(_PARTS, max_size=6).map(msgspec.msgpack.encode),
        st.builds(
            lambda version, caller, wanted, priority, nonce: msgspec.msgpack.encode(
                ["zpush hello", version, caller, wanted, priority, nonce]
            ),
            st.sampled_from([0, 1, 1, 1, 2, -1, 2**70 % 2**64]),
            st.sampled_from(["caller", "", "x" * 65]),
            st.just("owner"),
            st.integers(-1, 3),
            st.just(bytes(32)),
        ),
        st.builds(
            lambda version, nonce: msgspec.msgpack.encode(["zpush challenge", version, "owner", nonce]),
            st.sampled_from([0, 1, 1, 1, 2]),
            st.sampled_from([bytes(32), b""]),
        ),
        st.sampled_from(["zpush proof", "zpush welcome"]).map(lambda tag: msgspec.msgpack.encode([tag, bytes(32)])),
        NESTED,
    )
)

FRAMES = Target("peers", st.tuples(STREAMS, CUTS, LIMITS), check_frames, 150)
HELLO = Target("hello", st.tuples(HELLOS, HELLOS), check_hello, 100)
