"""PROXY headers, cut at every byte (zpush/_fast/proxy.pyx)."""

from __future__ import annotations

import ipaddress

from hypothesis import strategies as st

from tests._fast.proxy_support import LOCAL, SIGNATURE, tlv, v1, v2, v2_from
from tests.fuzz.target import Target, damaged
from zpush._fast.proxy import MAX_BYTES, parse

ADDRESSES = st.sampled_from(
    ["203.0.113.9", "0.0.0.0", "2001:db8::9", "::ffff:1.2.3.4", "::", "1.2.3", "1.2.3.04", "::g", ""]
)
PORTS = st.sampled_from([0, 1, 65_535, 65_536, -1])
LINES = st.builds(v1, st.sampled_from(["TCP4", "TCP6", "UNKNOWN", "tcp4", ""]), ADDRESSES, ADDRESSES, PORTS, PORTS)
BINARY = st.builds(
    lambda command, family, body: v2(command, family, body),
    st.sampled_from([0x20, 0x21, 0x22, 0x11]),
    st.sampled_from([0x00, 0x11, 0x12, 0x21, 0x31, 0x41, 0x13]),
    st.sampled_from([b"", bytes(11), bytes(12), bytes(36), bytes(216), bytes(12) + tlv(4, b"x"), bytes(MAX_BYTES)]),
)
TCP = st.builds(
    v2_from, st.sampled_from(["203.0.113.9", "2001:db8::9"]), st.just(7), st.sampled_from([b"", tlv(1, b"h2")])
)
HEADERS = damaged(st.one_of(LINES, BINARY, TCP, st.just(LOCAL), st.just(SIGNATURE), st.binary(max_size=120)))


def check(data: bytes) -> None:
    """Bytes are malformed, a header, or the beginning of one; more bytes never change what was said."""
    known: tuple[int, tuple[str, int] | None] | str | None = None
    for size in range(len(data) + 1):
        try:
            said: tuple[int, tuple[str, int] | None] | str | None = parse(data[:size])
        except ValueError:
            said = "malformed"
        assert known in (None, said), "bytes behind the header changed it"
        known = said
    if isinstance(known, tuple):
        header_bytes, client = known
        assert 0 < header_bytes <= min(len(data), MAX_BYTES)
        if client is not None:
            ipaddress.ip_address(client[0])
            assert 0 <= client[1] <= 65_535
    elif known is None:
        assert len(data) < MAX_BYTES, "a header without an end"


TARGET = Target("proxy", HEADERS, check, 100)
