"""Addresses and networks in C against the interpreter's own, and against the ones that read heads."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zpush._fast import networks
from zpush._fast.networks import Networks, normal
from zpush.protocol import forwarded

ADDRESSES = st.ip_addresses() | st.ip_addresses(v=6, network="::ffff:0:0/96") | st.ip_addresses(network="10.0.0.0/28")


@st.composite
def any_network(draw: st.DrawFn) -> str:
    address = draw(ADDRESSES)
    bits = draw(st.integers(0, address.max_prefixlen))
    return str(ipaddress.ip_network((address, bits), strict=False))


@settings(max_examples=400)
@given(st.lists(any_network(), max_size=4), ADDRESSES)
@example(["::/0"], ipaddress.ip_address("1.2.3.4"))
@example(["::ffff:10.0.0.0/104"], ipaddress.ip_address("10.1.1.1"))
@example(["10.0.0.0/8"], ipaddress.ip_address("::ffff:10.1.1.1"))
def test_both_ends_trust_the_same(texts: list[str], address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    held = Networks(texts).hold(str(address))
    assert held == forwarded.Networks(texts).hold(str(address))
    if any(address in ipaddress.ip_network(text) for text in texts):
        assert held


@pytest.mark.parametrize("bits", range(129))
def test_every_length_of_a_prefix(bits: int) -> None:
    base = int(ipaddress.ip_address("2001:db8:5555:aaaa:5555:aaaa:5555:aaaa"))
    network = ipaddress.ip_network((base, bits), strict=False)
    held = Networks([str(network)])
    assert held.hold(str(ipaddress.ip_address(base)))
    if bits:
        assert not held.hold(str(ipaddress.ip_address(base ^ (1 << (128 - bits)))))  # the prefix's last bit


@pytest.mark.parametrize("texts", [["10.0.0.1/8"], ["10.0.0.0/33"], ["example.com"], [""], ["10.0.0.0/8", "x"]])
def test_what_is_no_network_is_refused(texts: list[str]) -> None:
    with pytest.raises(ValueError):
        Networks(texts)


@given(ADDRESSES)
def test_one_spelling_for_each_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    mapped = getattr(address, "ipv4_mapped", None)
    text = normal(address.exploded)
    assert text is not None
    assert ipaddress.ip_address(text) == (mapped or address)
    assert normal(text) == text


@pytest.mark.parametrize(
    "text",
    ["", ".", ":", "1.2.3", "1.2.3.4.5", "01.2.3.4", "256.1.1.1", "1.2.3.4 ", "1.2.3.4\0", "1.2.3.4\0.5", "::1\0"]
    + [":::", "fe80::1%lo", "[::1]", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "::12345", "::1.2.3", "é"]
    + ["1" * 45, ":" * 46, "9" * 999],
)
def test_what_is_no_address(text: str) -> None:
    assert normal(text) is None
    with pytest.raises(ValueError, match="not an address"):
        Networks([]).hold(text)


@given(st.text("0123456789abcdef:.% ", max_size=45))
def test_it_takes_what_the_c_library_takes(text: str) -> None:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        socket.inet_pton(family, text)
    except OSError:
        assert normal(text) is None
    else:
        assert normal(text) is not None


def test_all_memory_is_given_back() -> None:
    before = networks.allocations()
    made = [Networks(["10.0.0.0/8"] * n) for n in range(10)]
    del made
    after = networks.allocations()
    assert after[0] - before[0] == after[1] - before[1] == 9
