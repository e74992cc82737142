"""The PROXY protocol's parser: headers whole, cut at every byte, and what no proxy sends."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests._fast.proxy_support import SIGNATURE, tlv, v1, v2, v2_from
from zpush._fast.proxy import MAX_BYTES, parse

Parsed = tuple[int, tuple[str, int] | None]
LONGEST = "ffff:" * 7 + "fffe"
WHOLE = {
    "v1 TCP4": (v1("TCP4", "203.0.113.9", "10.0.0.1", 51234, 443), ("203.0.113.9", 51234)),
    "v1 TCP6": (v1("TCP6", "2001:db8::9", "2001:db8::1", 0, 65535), ("2001:db8::9", 0)),
    "v1 TCP6 mapped": (v1("TCP6", "::ffff:203.0.113.9", "::1", 1, 2), ("203.0.113.9", 1)),
    "v1 TCP6 longest": (v1("TCP6", LONGEST, LONGEST, 65535, 65535), (LONGEST, 65535)),
    "v1 UNKNOWN": (b"PROXY UNKNOWN\r\n", None),
    "v1 UNKNOWN with more": (v1("UNKNOWN", LONGEST, LONGEST, 65535, 65535), None),
    "v1 UNKNOWN with anything": (b"PROXY UNKNOWN \0\xff\r\n", None),
    "v2 TCP4": (v2_from("203.0.113.9", 51234), ("203.0.113.9", 51234)),
    "v2 TCP6": (v2_from("2001:db8::9", 65535), ("2001:db8::9", 65535)),
    "v2 TCP6 mapped": (v2_from("::ffff:203.0.113.9", 1), ("203.0.113.9", 1)),
    "v2 with TLVs": (v2_from("203.0.113.9", 80, tlv(0xE0, b"x" * 100) + tlv(4, b"")), ("203.0.113.9", 80)),
    "v2 of the most": (v2_from("203.0.113.9", 80, tlv(4, bytes(MAX_BYTES - 16 - 12 - 3))), ("203.0.113.9", 80)),
    "v2 LOCAL": (v2(0x20, 0x00), None),
    "v2 LOCAL with addresses": (v2(0x20, 0x11, bytes(12)), None),
    "v2 LOCAL of no family": (v2(0x20, 0xFF, b"?"), None),
    "v2 UNSPEC": (v2(0x21, 0x00), None),
    "v2 UNSPEC with TLVs": (v2(0x21, 0x00, tlv(1, b"h2")), None),
    "v2 UNIX": (v2(0x21, 0x31, b"/run/a\0".ljust(108, b"\0") + bytes(108)), None),
    "v2 UDP4": (v2(0x21, 0x12, bytes(12)), None),
    "v2 UDP6": (v2(0x21, 0x22, bytes(36)), None),
}  # fmt: skip


@pytest.mark.parametrize(("header", "client"), WHOLE.values(), ids=WHOLE)
def test_a_header_is_read_once_it_is_whole(header: bytes, client: tuple[str, int] | None) -> None:
    for cut in range(len(header)):
        assert parse(header[:cut]) is None, cut
    for more in (b"", b"G", b"GET / HTTP/1.1\r\n\r\n", header):
        assert parse(header + more) == (len(header), client)


@given(st.ip_addresses(), st.ip_addresses(v=4), st.ip_addresses(v=6), st.integers(0, 65535), st.binary(max_size=300))
def test_any_client(
    client: ipaddress.IPv4Address | ipaddress.IPv6Address,
    four: ipaddress.IPv4Address,
    six: ipaddress.IPv6Address,
    port: int,
    rest: bytes,
) -> None:
    mapped = getattr(client, "ipv4_mapped", None)
    expected = (str(mapped or client), port)
    line = v1(f"TCP{client.version}", str(client), str(four if client.version == 4 else six), port, 1)
    binary = v2_from(str(client), port)
    for header in (line, binary):
        found = parse(header + rest)
        assert found is not None
        size, told = found
        assert size == len(header)
        assert told is not None
        assert (ipaddress.ip_address(told[0]), told[1]) == (ipaddress.ip_address(expected[0]), port)


GOOD = "203.0.113.9 10.0.0.1 1 2"
BAD_LINES = [
    "PROXY\r\n", "PROXY \r\n", "PROXY  TCP4 " + GOOD, "PROXY TCP4", "PROXY TCP4 ", "PROXY TCP5 " + GOOD,
    "PROXY tcp4 " + GOOD, "proxy TCP4 " + GOOD, " PROXY TCP4 " + GOOD, "PROXY TCP4  " + GOOD,
    "PROXY TCP4 " + GOOD + " ", "PROXY TCP4 " + GOOD + " 3", "PROXY TCP4\t" + GOOD, "PROXY TCP6 " + GOOD,
    "PROXY TCP4 ::1 ::1 1 2", "PROXY TCP4 203.0.113.9 ::1 1 2",
    "PROXY TCP4 203.0.113.9 10.0.0.1 1", "PROXY TCP4 203.0.113.9 10.0.0.1 1 ",
    "PROXY TCP4 203.0.113.9 10.0.0.1  2", "PROXY TCP4 203.0.113.9 10.0.0.1 65536 2",
    "PROXY TCP4 203.0.113.9 10.0.0.1 1 99999", "PROXY TCP4 1.2.3.4 1.2.3.4 01 2", "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2",
    "PROXY TCP4 1.2.3.4 1.2.3.4 -1 2", "PROXY TCP4 1.2.3.4 1.2.3.4 1 000000", "PROXY TCP4 1.2.3.4 1.2.3.4 0x1 2",
    "PROXY TCP4 01.2.3.4 1.2.3.4 1 2", "PROXY TCP4 1.2.3 1.2.3.4 1 2", "PROXY TCP4 1.2.3.4\0 1.2.3.4 1 2",
    "PROXY TCP4 1.2.3.4\0.5 1.2.3.4 1 2", "PROXY TCP6 fe80::1%lo ::1 1 2", "PROXY TCP6 [::1] ::1 1 2",
    "PROXY UNKNOWNX", "PROXY UNKNOW", "PROXY UNIX /a /b",
]  # fmt: skip


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_line_that_is_none(line: str) -> None:
    with pytest.raises(ValueError, match="not a PROXY header"):
        parse(line.removesuffix("\r\n").encode() + b"\r\n")


@pytest.mark.parametrize(
    "data",
    [
        b"GET /ws HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00",  # TLS
        b"\0",
        b"PROXZ",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",  # no CR
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rG",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\r\n",
        b"PROXY UNKNOWN" + b" " * 92 + b" \r\n",  # 108 bytes
        b"PROXY UNKNOWN" + b" " * 92 + b" \r",
        b"PROXY UNKNOWN" + b" " * 93,  # 106 bytes without an end
        b"PROXY UNKNOWN \n",
        b"PROXY UNKNOWN \n\r\n",
        b"PROXY " + b"x" * 4096,
        b"\r\n\r\n\0\r\nQUIX",
        b"\r\n\r\nG",
        b"\n",
        SIGNATURE + b"\x11",  # version 1
        SIGNATURE + b"\x31",
        SIGNATURE + b"\x22",  # a command that is none
        SIGNATURE + b"\x2f",
        SIGNATURE + b"\x21\x11" + struct.pack(">H", MAX_BYTES - 15),  # too long: told by its length
        SIGNATURE + b"\x21\x11" + struct.pack(">H", 4096 - 16),
        SIGNATURE + b"\x20\x00\xff\xff",
        SIGNATURE + b"\x21\x11\x00\x0b",  # too short for its addresses
        SIGNATURE + b"\x21\x12\x00\x00",
        SIGNATURE + b"\x21\x21\x00\x23",
        SIGNATURE + b"\x21\x31\x00\xd7",
        SIGNATURE + b"\x21\x41\x01\x00",  # no such family
        SIGNATURE + b"\x21\x13\x01\x00",  # no such transport
    ],
)
def test_refused_with_the_first_byte_that_is_wrong(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a PROXY header"):
        parse(data)
    with pytest.raises(ValueError, match="not a PROXY header"):
        parse(data + bytes(5000))


def test_a_line_of_the_most_bytes_is_taken() -> None:
    line = b"PROXY UNKNOWN" + b" " * 92 + b"\r\n"
    assert len(line) == 107
    assert parse(line) == (107, None)


def outcome(data: bytes) -> Parsed | None | type[ValueError]:
    try:
        return parse(data)
    except ValueError:
        return ValueError


BEGINNINGS = st.sampled_from(
    [b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11\0\x0c", SIGNATURE + b"\x20\0"]
)
WORDS = st.sampled_from(["PROXY", "TCP4", "TCP6", "1.2.3.4", "::1", "80", "", "\r", "\n", "UNKNOWN"])
LINES = st.lists(WORDS, max_size=9).map(lambda words: " ".join(words).encode() + b"\r\n")


@settings(max_examples=600, deadline=None)
@given(st.builds(bytes.__add__, BEGINNINGS, st.binary(max_size=80)) | LINES)
def test_bytes_in_pieces_are_the_bytes_whole(data: bytes) -> None:
    """Once it is known what they are, more bytes change nothing; and no answer is later than it must be."""
    known = None
    for end in range(len(data) + 1):
        found = outcome(data[:end])
        if known is not None:
            assert found == known, end
        known = found
        if isinstance(found, tuple):
            assert found[0] <= end <= MAX_BYTES + 80


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_mutations_of_a_good_header_crash_nothing(family: socket.AddressFamily) -> None:
    good = v2_from("203.0.113.9" if family == socket.AF_INET else "2001:db8::9", 51234, tlv(1, b"h2"))
    for at in range(len(good)):
        for value in range(256):
            changed = good[:at] + bytes([value]) + good[at + 1 :]
            found = outcome(changed)
            assert found is None or found is ValueError or found[0] <= len(changed)  # type: ignore[index]
