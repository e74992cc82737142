"""Frames against wsproto, in both directions, whole and split at every point; and the limits, which it has not."""

from __future__ import annotations

import codecs
import enum
import gc
import itertools
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wsproto import frame_protocol
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from zpush._fast import frames
from zpush._fast.frames import CLOSE, ERROR, MESSAGE, PING, PONG, FrameReader, encode_frame, encode_header

TEXT, BINARY = 1, 2
KEY = b"\x37\xfa\x21\x3d"
Event = tuple[int, int, int, bytes]  # kind, opcode of a message, close code, payload


class PromptDecoder(codecs.getincrementaldecoder("utf-8")):  # type: ignore[misc]
    """CPython's decoder, except that the first two bytes of a surrogate fail at once and not with the third."""

    def decode(self, data: bytes, final: bool = False) -> str:
        text: str = super().decode(data, final)
        pending: bytes = self.getstate()[0]
        if pending[:1] == b"\xed" and pending[1:] >= b"\xa0":
            raise UnicodeDecodeError("utf-8", pending, 0, 2, "a surrogate")
        return text


# 1014 was registered with IANA after the RFC; wsproto does not know it.
KNOWN_CODES = enum.IntEnum(  # type: ignore[misc]
    "KNOWN_CODES", {**{each.name: each.value for each in frame_protocol.CloseReason}, "BAD_GATEWAY": 1014}
)


@pytest.fixture(scope="module", autouse=True)
def prompt_wsproto() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_protocol, "getincrementaldecoder", lambda _: PromptDecoder)
        patch.setattr(frame_protocol, "CloseReason", KNOWN_CODES)
        yield


def frame(first: int, payload: bytes, key: bytes = KEY) -> bytes:
    """A client's frame; first: its first byte, FIN and opcode."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65_536:
        length = struct.pack("!BH", 0x80 | 126, size)
    else:
        length = struct.pack("!BQ", 0x80 | 127, size)
    return bytes([first]) + length + key + frames.mask(payload, key)


def read(pieces: Iterable[bytes], message_bytes: int = (1 << 63) - 1, fragments: int = 1 << 31) -> list[Event]:
    """Our events, up to the first CLOSE or ERROR."""
    reader = FrameReader(message_bytes, fragments)
    events: list[Event] = []
    for piece in pieces:
        for kind, opcode, code, payload, _ in reader.feed(piece):
            events.append((kind, opcode if kind == MESSAGE else 0, code, payload))
            if kind in (CLOSE, ERROR):
                return events
    return events


def oracle(data: bytes) -> list[Event]:
    """The same from wsproto."""
    protocol = FrameProtocol(client=False, extensions=[])
    protocol.receive_bytes(data)
    events: list[Event] = []
    message = b""
    try:
        for each in protocol.received_frames():
            payload = each.payload
            if each.opcode is Opcode.CLOSE:
                assert isinstance(payload, tuple)
                return [*events, (CLOSE, 0, int(payload[0]), payload[1].encode())]
            if each.opcode.iscontrol():
                assert isinstance(payload, bytes)
                events.append((PING if each.opcode is Opcode.PING else PONG, 0, 0, payload))
                continue
            message += payload.encode() if isinstance(payload, str) else bytes(payload)  # type: ignore[arg-type]
            if each.message_finished:
                events.append((MESSAGE, int(each.opcode), 0, message))
                message = b""
    except ParseFailed as error:
        events.append((ERROR, 0, int(error.code), b""))
    return events


def agrees(data: bytes) -> list[Event]:
    """Asserts that wsproto sees what we see. It finds some errors later, so it gets more bytes to find them in."""
    ours = read([data])
    failed = bool(ours) and ours[-1][0] == ERROR
    assert ours == (oracle(data + bytes(24))[: len(ours)] if failed else oracle(data))
    return ours


# --- what a client may send, and a little that it may not ---

KEYS = st.binary(min_size=4, max_size=4)
CONTROL = st.builds(
    lambda op, payload, key: frame(0x80 | op, payload, key), st.sampled_from([9, 10]), st.binary(max_size=125), KEYS
)
CODES = st.one_of(st.integers(990, 1020), st.sampled_from([0, 2999, 3000, 4999, 5000, 65_535]))
REASONS = st.one_of(st.text(max_size=30).map(str.encode), st.binary(max_size=60))
CLOSES = st.one_of(
    st.builds(lambda code, reason: struct.pack("!H", code) + reason, CODES, REASONS),
    st.binary(max_size=2),
).map(lambda payload: frame(0x88, payload))
TEXTS = st.text(max_size=60).map(str.encode)
SIZES = st.sampled_from([125, 126, 127, 300]).map(lambda size: (bytes(range(256)) * 2)[:size])


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """One message in any fragments, control frames between them, text sometimes broken."""
    opcode = draw(st.sampled_from([TEXT, BINARY]))
    payload = draw(TEXTS if opcode == TEXT else st.one_of(st.binary(max_size=60), SIZES))
    if draw(st.integers(0, 9)) == 0:
        payload += draw(st.sampled_from([b"\xff", b"\xed\xa0\x80", b"\xf4\x90", b"\xe0\x80", b"\xc0\xaf", b"\xf0\x9f"]))
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
    stream = b""
    for n, (begin, end) in enumerate(itertools.pairwise([0, *cuts, len(payload)])):
        last = n == len(cuts)
        stream += frame((0x80 if last else 0) | (0 if n else opcode), payload[begin:end], draw(KEYS))
        if not last:
            stream += b"".join(draw(st.lists(CONTROL, max_size=1)))
    return stream


STREAMS = st.builds(
    lambda parts, end: b"".join(parts) + end,
    st.lists(st.one_of(messages(), CONTROL), max_size=4),
    st.one_of(st.just(b""), CLOSES),
)


@settings(max_examples=300, deadline=None)
@given(STREAMS)
def test_a_client_is_understood_as_wsproto_understands_it(stream: bytes) -> None:
    agrees(stream)


@settings(max_examples=150, deadline=None)
@given(STREAMS)
def test_pieces_change_nothing(stream: bytes) -> None:
    whole = read([stream])
    assert read(bytes([byte]) for byte in stream) == whole
    for cut in range(len(stream) + 1):
        assert read([stream[:cut], stream[cut:]]) == whole


@settings(max_examples=500, deadline=None)
@given(STREAMS, st.lists(st.tuples(st.integers(0, 40), st.integers(0, 7)), min_size=1, max_size=3))
def test_flipped_bits_are_judged_as_wsproto_judges_them(stream: bytes, flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(stream or b"\0\0")
    for place, bit in flips:
        damaged[place % len(damaged)] ^= 1 << bit
    whole = agrees(bytes(damaged))
    assert read(bytes([byte]) for byte in damaged) == whole


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=40))
def test_noise_is_judged_as_wsproto_judges_it(noise: bytes) -> None:
    agrees(noise)


def test_every_pair_of_first_bytes_is_judged_as_wsproto_judges_it() -> None:
    begun = frame(0x01, b"")  # a text message is under way
    for first, second in itertools.product(range(256), (0, 1, 0x80, 0x81, 0x82, 0xFD, 0xFE, 0xFF)):
        agrees(bytes([first, second]))
        agrees(bytes([first, second]) + KEY)
        agrees(begun + bytes([first, second]) + KEY)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=200), st.binary(max_size=200)), max_size=5), st.booleans())
def test_wsproto_as_the_client(payloads: Sequence[str | bytes], fragmented: bool) -> None:
    client = FrameProtocol(client=True, extensions=[])
    stream, expected = b"", []
    for payload in payloads:
        if fragmented:
            stream += client.send_data(payload[:3], fin=False) + client.ping(b"p") + client.send_data(payload[3:])
            expected.append((PING, 0, 0, b"p"))
        else:
            stream += client.send_data(payload)
        encoded = payload.encode() if isinstance(payload, str) else payload
        expected.append((MESSAGE, TEXT if isinstance(payload, str) else BINARY, 0, encoded))
    stream += client.close(1000, "bye")
    assert read([stream]) == [*expected, (CLOSE, 0, 1000, b"bye")]


# --- what we send ---


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_wsproto_reads_what_we_write(opcode: int, size: int) -> None:
    client = FrameProtocol(client=True, extensions=[])
    client.receive_bytes(encode_frame(opcode, b"x" * size) + encode_frame(9, b"ping"))
    message, ping = client.received_frames()
    assert (message.opcode, len(message.payload), message.message_finished) == (opcode, size, True)
    assert (ping.opcode, ping.payload) == (9, b"ping")


@pytest.mark.parametrize("size", [2**16, 2**32, 2**63 - 1])
def test_long_headers(size: int) -> None:
    assert encode_header(BINARY, size) == struct.pack("!BBQ", 0x82, 127, size)


# --- errors come as early as the bytes allow ---

PROTOCOL_ERRORS = {
    "reserved bit": b"\xc1\x80",
    "reserved data opcode": b"\x83\x80",
    "reserved control opcode": b"\x8b\x80",
    "not masked": b"\x81\x01",
    "fragmented ping": b"\x09\x80",
    "long ping": b"\x89\xfe",
    "continuation of nothing": b"\x80\x80",
    "new message amid fragments": frame(0x01, b"a") + b"\x81\x80",
    "16 bits for 125": b"\x82\xfe" + struct.pack("!H", 125) + KEY,
    "64 bits for 65535": b"\x82\xff" + struct.pack("!Q", 65_535) + KEY,
    "top bit": b"\x82\xff" + struct.pack("!Q", 1 << 63) + KEY,
    "close of one byte": frame(0x88, b"\x03"),
    "close code 1005": frame(0x88, struct.pack("!H", 1005)),
}


@pytest.mark.parametrize("name", PROTOCOL_ERRORS)
def test_a_protocol_error_is_found_at_its_last_byte_and_not_before(name: str) -> None:
    stream = PROTOCOL_ERRORS[name]
    assert all(event[0] != ERROR for event in read([stream[:-1]]))
    assert read([stream])[-1] == (ERROR, 0, 1002, b"")


def test_a_failed_reader_is_not_fed_again() -> None:
    reader = FrameReader(100, 1)
    assert reader.feed(b"\x81\x01") == [(ERROR, 0, 1002, b"", "frame of a client not masked")]
    with pytest.raises(ValueError):
        reader.feed(b"")


def python_state(data: bytes) -> int | None:
    """0 whole, 1 impossible, None amid a character: the codec's view."""
    decoder = PromptDecoder()
    try:
        decoder.decode(data)
    except UnicodeDecodeError:
        return 1
    return None if decoder.getstate()[0] else 0


def our_state(data: bytes) -> int | None:
    state = frames.utf8(0, data)
    return state if state < 2 else None


def test_every_pair_of_bytes_is_judged_as_the_codec_judges_it() -> None:
    for pair in itertools.product(range(256), repeat=2):
        for tail in (b"", b"\x80", b"\xbf\xbf", b"\x80A"):
            data = bytes(pair) + tail
            assert our_state(data) == python_state(data), data


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.binary(max_size=3), TEXTS, st.integers(0, 20))
@example(b"\xe2\x82", b"", b"\xac", 1)
def test_text_is_judged_at_each_byte_as_the_codec_judges_it(head: bytes, odd: bytes, tail: bytes, ascii: int) -> None:
    data = b"a" * ascii + head + odd + tail
    state = 0
    for end in range(1, len(data) + 1):
        state = frames.utf8(state, data[end - 1 : end])
        assert state == frames.utf8(0, data[:end])
        assert (state if state < 2 else None) == python_state(data[:end])


@pytest.mark.parametrize("bad", [b"\xff", b"\xc0", b"\xed\xa0", b"\xf4\x90", b"\xe0\x9f", b"\xf0\x8f", b"a\x80"])
def test_bad_text_fails_amid_its_frame_at_the_first_impossible_byte(bad: bytes) -> None:
    payload = b"fine, so far: \xce\xba" + bad
    stream = frame(0x01, payload + b"x" * 50)[: 6 + len(payload)]
    assert read([stream[:-1]]) == []
    for cut in range(len(stream)):
        assert read([stream[:cut], stream[cut:]]) == [(ERROR, 0, 1007, b"")]


def test_a_character_may_be_cut_between_fragments_but_not_by_the_end() -> None:
    euro = "€".encode()
    assert read([frame(0x01, euro[:1]) + frame(0x00, euro[1:2]) + frame(0x80, euro[2:])]) == [(MESSAGE, TEXT, 0, euro)]
    assert read([frame(0x01, euro[:1]) + frame(0x80, euro[1:2])]) == [(ERROR, 0, 1007, b"")]
    assert read([frame(0x81, euro[:2])]) == [(ERROR, 0, 1007, b"")]
    assert read([frame(0x82, euro[:2])]) == [(MESSAGE, BINARY, 0, euro[:2])]


def test_which_close_codes_may_stand_on_the_wire() -> None:
    allowed = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
    assert {code for code in range(65_536) if frames.is_close_code(code)} == allowed
    for code in (*range(995, 1020), 2999, 3000, 4999, 5000):
        event = read([frame(0x88, struct.pack("!H", code) + b"why")])[0]
        assert event == ((CLOSE, 0, code, b"why") if code in allowed else (ERROR, 0, 1002, b""))


def test_close_without_code_and_with_a_bad_reason() -> None:
    assert read([frame(0x88, b"")]) == [(CLOSE, 0, 1005, b"")]
    assert read([frame(0x88, b"\x03\xe8\xff")]) == [(ERROR, 0, 1007, b"")]
    assert read([frame(0x88, b"\x03\xe8\xe2\x82")]) == [(ERROR, 0, 1007, b"")]


# --- limits and memory ---


def test_a_message_too_big_is_refused_by_its_header() -> None:
    header = b"\x82\xfe" + struct.pack("!H", 1001) + KEY
    assert read([header], message_bytes=1001) == []
    assert read([header], message_bytes=1000) == [(ERROR, 0, 1009, b"")]
    huge = b"\x82\xff" + struct.pack("!Q", (1 << 63) - 1) + KEY
    assert read([huge], message_bytes=1000) == [(ERROR, 0, 1009, b"")]


def test_fragments_count_together() -> None:
    begin = frame(0x02, b"x" * 600)
    assert read([begin, frame(0x80, b"x" * 400)], message_bytes=1000) == [(MESSAGE, BINARY, 0, b"x" * 1000)]
    assert read([begin, frame(0x80, b"x" * 401)[:8]], message_bytes=1000) == [(ERROR, 0, 1009, b"")]
    huge = b"\x80\xff" + struct.pack("!Q", (1 << 63) - 1) + KEY
    assert read([begin, huge], message_bytes=1000) == [(ERROR, 0, 1009, b"")]


def test_a_message_of_too_many_fragments() -> None:
    three = frame(0x02, b"a") + frame(0x89, b"") + frame(0x00, b"") + frame(0x80, b"c")
    assert read([three], fragments=3)[-1] == (MESSAGE, BINARY, 0, b"ac")
    assert read([three], fragments=2)[-1] == (ERROR, 0, 1009, b"")
    assert len(read([three * 5], fragments=3)) == 10, "each message counts anew"


def test_control_frames_are_no_part_of_the_message_limit() -> None:
    assert read([frame(0x89, b"p" * 125)], message_bytes=10) == [(PING, 0, 0, b"p" * 125)]


@pytest.mark.parametrize("stream", [frame(0x82, bytes(100_000)), frame(0x02, bytes(100_000)) + frame(0x80, b"")])
def test_memory_follows_the_bytes_that_came_and_not_the_header(stream: bytes) -> None:
    limit = 100_000
    reader = FrameReader(limit, 10)
    arrived = 0
    for begin in range(0, len(stream) - 1, 997):
        piece = stream[begin : min(begin + 997, len(stream) - 1)]
        assert reader.feed(piece) == []
        arrived += len(piece)
        assert reader.room_bytes <= min(limit, max(512, 2 * arrived))
    assert len(reader.feed(stream[-1:])) == 1
    assert reader.room_bytes == 0 and reader.idle


def test_whole_messages_take_no_memory() -> None:
    before = frames.allocations()
    stream = b"".join(frame(first, b"x" * size) for first in (0x81, 0x82, 0x89, 0x8A) for size in (0, 1, 125))
    assert len(read([stream + frame(0x81, b"x" * 70_000)])) == 13
    header, payload = stream[:4], stream[4:]
    assert len(read([header, payload])) == 12, "a header cut off its payload changes nothing"
    assert frames.allocations() == before


def test_idle_means_between_messages() -> None:
    stream = frame(0x01, b"ab") + frame(0x89, b"") + frame(0x80, b"")
    idle_at = []
    for cut in range(len(stream) + 1):
        reader = FrameReader(100, 10)
        reader.feed(stream[:cut])
        if reader.idle:
            idle_at.append(cut)
    assert idle_at == [0, len(stream)]


def test_memory_is_given_back_in_every_state() -> None:
    gc.collect()
    before = frames.allocations()
    stream = frame(0x01, b"ab") + frame(0x89, b"p") + frame(0x80, b"\xff")
    for cut in range(len(stream) + 1):
        read([stream[:cut]])
    read([stream[:10], frame(0x01, b"x" * 300)])
    gc.collect()
    allocated, freed = frames.allocations()
    assert allocated > before[0]
    assert allocated - before[0] == freed - before[1]


NO_MEMORY = """
import resource
from zpush._fast.frames import FrameReader, allocations
reader = FrameReader(1 << 40, 1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
piece = bytes(1 << 20)
failed = False
try:
    reader.feed(b"\\x82\\xff" + (1 << 40).to_bytes(8, "big") + b"mask")
    for _ in range(128):
        reader.feed(piece)
except MemoryError:
    failed = True
assert failed
del reader
allocated, freed = allocations()
assert allocated == freed == 1
"""


def test_running_out_of_memory_is_an_event() -> None:
    subprocess.run([sys.executable, "-c", NO_MEMORY], check=True)


@pytest.mark.parametrize("size", [*range(18), 100, 125, 1000])
def test_masking_byte_by_byte(size: int) -> None:
    data = bytes((n * 7 + 3) & 255 for n in range(size))
    for phase in (*range(9), (1 << 40) + 3):
        expected = bytes(byte ^ KEY[(phase + n) % 4] for n, byte in enumerate(data))
        assert frames.mask(data, KEY, phase) == expected
    with pytest.raises(ValueError):
        frames.mask(data, b"abc")
