"""A record written to Kafka byte by byte, for what no client library would write: Produce version 3, record batch 2."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

PRODUCE, VERSION = 0, 3
CASTAGNOLI = 0x82F63B78  # reversed polynomial of CRC-32C
Header = tuple[bytes, bytes | None]


def produce(bootstrap: str, topic: str, partition: int, batch: bytes) -> int:
    """Kafka's error code; 0: written."""
    body = struct.pack(">hhi", -1, 1, 30_000) + struct.pack(">i", 1) + _string(topic)
    body += struct.pack(">iii", 1, partition, len(batch)) + batch
    request = struct.pack(">hhi", PRODUCE, VERSION, 7) + _string("raw") + body
    host, _, port = bootstrap.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        answer = connection.makefile("rb")
        (size,) = struct.unpack(">i", answer.read(4))
        content = answer.read(size)
    at = 4 + 4 + 2 + len(topic.encode()) + 4 + 4  # correlation, topics, name, partitions, index
    return int(struct.unpack_from(">h", content, at)[0])


def batch_of(
    value: bytes | None, key: bytes | None = b"c1", headers: Sequence[Header] = (), timestamp_ms: int = 0
) -> bytes:
    """One record."""
    record = b"\0" + _varint(0) + _varint(0) + _bytes(key) + _bytes(value) + _varint(len(headers))
    record += b"".join(_bytes(name) + _bytes(content) for name, content in headers)
    record = _varint(len(record)) + record
    checked = struct.pack(">hiqqqhii", 0, 0, timestamp_ms, timestamp_ms, -1, -1, -1, 1) + record
    after_length = struct.pack(">ibI", -1, 2, _crc32c(checked)) + checked
    return struct.pack(">qi", 0, len(after_length)) + after_length


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text.encode())) + text.encode()


def _bytes(content: bytes | None) -> bytes:
    return _varint(-1) if content is None else _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Zigzag."""
    left, out = (number << 1) ^ (number >> 31), b""
    left &= 0xFFFFFFFF
    while left > 0x7F:
        out += bytes([left & 0x7F | 0x80])
        left >>= 7
    return out + bytes([left])


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (CASTAGNOLI if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
