"""Frames of clients, whole and in pieces (zpush/_fast/frames.pyx)."""

from __future__ import annotations

import struct

from hypothesis import strategies as st

from tests.fuzz.target import CUTS, Target, damaged, pieces
from zpush._fast.frames import CLOSE, ERROR, MESSAGE, PING, PONG, FrameReader, allocations, is_close_code, mask

TEXT = 1
Event = tuple[int, int, int, bytes, str]  # kind, opcode, close code, payload, reason
LENGTHS = [0, 1, 2, 125, 126, 127, 128, 512, 513, 1100]


def client_frame(first: int, payload: bytes, key: bytes, form: int = 0) -> bytes:
    """first: FIN and opcode; form: 2 or 8 for a length in so many bytes, minimal or not."""
    size = len(payload)
    if form == 8 or size > 0xFFFF:
        length = struct.pack("!BQ", 0xFF, size)
    elif form == 2 or size > 125:
        length = struct.pack("!BH", 0xFE, size)
    else:
        length = bytes([0x80 | size])
    return bytes([first]) + length + key + mask(payload, key)


PAYLOADS = st.one_of(
    st.text(max_size=12).map(str.encode),
    st.binary(max_size=130),
    st.sampled_from(LENGTHS).map(lambda n: (b"0123456789abcdef" * 70)[:n]),
    st.sampled_from([b"\xe2\x82", b"\xed\xa0\x80", b"\xf4\x90", b"\xf0\x9f\x98", b"\x03\xe8bye", b"\x03\xed", b"\x03"]),
)
FIRSTS = st.one_of(st.sampled_from([0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x88, 0x89, 0x8A]), st.integers(0, 255))
KEYS = st.sampled_from([b"\0\0\0\0", b"\x37\xfa\x21\x3d", b"\xff\xff\xff\xff"])
FRAMES = st.builds(client_frame, FIRSTS, PAYLOADS, KEYS, st.sampled_from([0, 0, 0, 0, 2, 8]))
CLAIMS = st.builds(  # headers that claim what never comes
    lambda first, size: bytes([first, 0xFF]) + struct.pack("!Q", size) + b"\x01\x02\x03\x04",
    st.sampled_from([0x81, 0x82, 0x00, 0x89]),
    st.sampled_from([0, 125, 65_535, 65_536, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]),
)
STREAMS = damaged(st.lists(st.one_of(FRAMES, FRAMES, FRAMES, CLAIMS), max_size=6).map(b"".join))


def check(value: tuple[bytes, tuple[int, ...], int, int]) -> None:
    """Whole or in pieces: the same events, none past a limit, and no memory kept."""
    stream, cuts, message_bytes, fragments = value
    allocated, freed = allocations()
    whole = read([stream], message_bytes, fragments)
    assert read(pieces(stream, cuts), message_bytes, fragments) == whole
    for event in whole:
        check_event(event, message_bytes)
    now_allocated, now_freed = allocations()
    assert now_allocated - allocated == now_freed - freed, "message memory was kept"


def read(parts: list[bytes], message_bytes: int, fragments: int) -> list[Event]:
    reader = FrameReader(message_bytes, fragments)
    events: list[Event] = []
    fed = 0
    for part in parts:
        events += reader.feed(part)
        fed += len(part)
        assert reader.room_bytes <= min(message_bytes, max(512, 2 * fed)), "memory that no byte paid for"
        assert not reader.idle or reader.room_bytes == 0, "idle, and memory held"
        if events and events[-1][0] == ERROR:
            break
    return events


def check_event(event: Event, message_bytes: int) -> None:
    kind, opcode, code, payload, reason = event
    if kind == MESSAGE:
        assert len(payload) <= message_bytes
        assert opcode in (1, 2)
        if opcode == TEXT:
            payload.decode()
    elif kind in (PING, PONG):
        assert len(payload) <= 125
    elif kind == CLOSE:
        assert code == 1005 or is_close_code(code)
        assert len(payload.decode()) <= 123
    else:
        assert kind == ERROR
        assert code in (1002, 1007, 1009)
        assert reason


TARGET = Target(
    "frames",
    st.tuples(STREAMS, CUTS, st.sampled_from([0, 1, 125, 512, 1000, 1 << 62]), st.sampled_from([1, 2, 3, 1 << 31])),
    check,
    200,
)
