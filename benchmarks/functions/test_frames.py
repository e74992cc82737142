"""RFC 6455 frames: ours against wsproto's, which is what a Python server would use."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Message, TextMessage

from zpush._fast.frames import FrameReader, encode_frame, mask, utf8
from zpush._fast.sse import encode_event

SIZES = [10, 125, 1024, 65_536]
KEY = b"\x37\xfa\x21\x3d"
TEXT, BINARY = 1, 2


def masked_frame(payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65_536:
        length = bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([0x80 | 127]) + size.to_bytes(8, "big")
    return bytes([0x80 | BINARY]) + length + KEY + mask(payload, KEY)


@pytest.mark.parametrize("size", SIZES)
def test_parse(benchmark: BenchmarkFixture, size: int) -> None:
    benchmark.group = f"parse a masked frame of {size} B"
    reader, frame = FrameReader(1 << 20, 1000), masked_frame(b"x" * size)
    [event] = benchmark(reader.feed, frame)
    assert event[3] == b"x" * size


@pytest.mark.parametrize("size", SIZES)
def test_parse_wsproto(benchmark: BenchmarkFixture, size: int) -> None:
    benchmark.group = f"parse a masked frame of {size} B"
    connection, frame = Connection(ConnectionType.SERVER), masked_frame(b"x" * size)

    def parse() -> list[object]:
        connection.receive_data(frame)
        return list(connection.events())

    [event] = benchmark(parse)
    assert isinstance(event, BytesMessage) and event.data == b"x" * size


@pytest.mark.parametrize("size", SIZES)
def test_build(benchmark: BenchmarkFixture, size: int) -> None:
    benchmark.group = f"build a text frame of {size} B"
    assert len(benchmark(encode_frame, TEXT, b"x" * size)) > size


@pytest.mark.parametrize("size", SIZES)
def test_build_wsproto(benchmark: BenchmarkFixture, size: int) -> None:
    benchmark.group = f"build a text frame of {size} B"
    connection = Connection(ConnectionType.SERVER)
    message: Message[str] = TextMessage(data="x" * size)
    assert len(benchmark(connection.send, message)) > size


@pytest.mark.parametrize("size", SIZES)
def test_mask(benchmark: BenchmarkFixture, size: int) -> None:
    benchmark.group = f"mask {size} B"
    assert len(benchmark(mask, b"x" * size, KEY)) == size


@pytest.mark.parametrize("size", SIZES)
def test_mask_in_python(benchmark: BenchmarkFixture, size: int) -> None:
    """As one long number: the fastest way without a C extension."""
    benchmark.group = f"mask {size} B"
    data = b"x" * size

    def mask_number() -> bytes:
        key = (KEY * (size // 4 + 1))[:size]
        return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")

    assert benchmark(mask_number) == mask(data, KEY)


@pytest.mark.parametrize("text", ["a" * 1000, "aé€😀" * 100], ids=["ascii", "mixed"])
def test_utf8(benchmark: BenchmarkFixture, text: str) -> None:
    benchmark.group = f"check UTF-8, {len(text.encode())} B"
    assert benchmark(utf8, 0, text.encode()) == 0


@pytest.mark.parametrize("text", ["a" * 1000, "aé€😀" * 100], ids=["ascii", "mixed"])
def test_utf8_decode(benchmark: BenchmarkFixture, text: str) -> None:
    """bytes.decode, which also makes a string that nobody wants."""
    benchmark.group = f"check UTF-8, {len(text.encode())} B"
    assert benchmark(text.encode().decode) == text


def test_event(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "build an event of 100 B"
    assert b"data: " in benchmark(encode_event, b"x" * 100, b"push", b"0199aabbccdd0011223344556677")
