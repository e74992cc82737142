"""X-Forwarded-For and Forwarded: whose word counts, and what of it."""

from __future__ import annotations

import ipaddress
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zpush.protocol.forwarded import MAX_HOPS, Networks, client_address
from zpush.protocol.head import Request

TRUSTED = Networks(["10.0.0.0/8", "2001:db8:1::/48", "192.0.2.7"])
PROXY = "10.0.0.1"
CLIENT = "203.0.113.9"


def told(
    *, peer: str = PROXY, trusted: Networks = TRUSTED, xff: str | None = None, rfc: str | None = None
) -> str | None:
    headers = {
        name: value.encode("latin-1")
        for name, value in ((b"x-forwarded-for", xff), (b"forwarded", rfc))
        if value is not None
    }
    peer = f"[{peer}]:4711" if ":" in peer else f"{peer}:4711"
    return client_address(Request("GET", "/ws", b"", True, headers, peer), trusted)


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("203.0.113.9", CLIENT),
        (" 203.0.113.9\t", CLIENT),
        ("203.0.113.9:51234", CLIENT),
        ("198.51.100.1, 203.0.113.9", CLIENT),  # the left one is the client's own invention
        ("198.51.100.1, 203.0.113.9, 10.1.1.1", CLIENT),  # through two proxies
        ("garbage, 203.0.113.9", CLIENT),
        (", 203.0.113.9", CLIENT),
        ("10.3.3.3, 10.2.2.2", "10.3.3.3"),  # a machine of one's own
        ("2001:DB8::9", "2001:db8::9"),
        ("[2001:db8::9]", "2001:db8::9"),
        ("[2001:db8::9]:443", "2001:db8::9"),
        ("::ffff:203.0.113.9", CLIENT),
        ("2001:db8::9, 2001:db8:1::1, 192.0.2.7", "2001:db8::9"),
    ],
)
def test_x_forwarded_for_is_read_from_the_right(value: str, client: str) -> None:
    assert told(xff=value) == client


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=203.0.113.9", CLIENT),
        ('For="203.0.113.9:51234";proto=https;by=10.0.0.1', CLIENT),
        ('for="[2001:db8::9]:51234"', "2001:db8::9"),
        ('for="[2001:db8::9]"', "2001:db8::9"),
        ("for=198.51.100.1, for=203.0.113.9;host=a", CLIENT),
        ("for=198.51.100.1,for=203.0.113.9,for=10.1.1.1", CLIENT),
        ('for="198.51.100.1, for=203.0.113.9', CLIENT),  # a quote left open by the client
        ('for=203.0.113.9;host="a, for=198.51.100.1"', CLIENT),  # a comma in quotes
        ('for=203.0.113.9;host="a;for=198.51.100.1"', CLIENT),
        (";;for=203.0.113.9;", CLIENT),
    ],
)
def test_forwarded_is_read_from_the_right(value: str, client: str) -> None:
    assert told(rfc=value) == client


@pytest.mark.parametrize(
    "value",
    ["", " ", "unknown", "203.0.113", "203.0.113.09", "203.0.113.256", "1.2.3.4:", "1.2.3.4:x", "1.2.3.4 5.6.7.8"]
    + ["203.0.113.9, ", "203.0.113.9,,10.1.1.1", "[1.2.3.4]", "[::1", "::1]:80", "fe80::1%eth0", "\xff", "-"]
    + ["1" * 5000, ", ".join([CLIENT] + ["10.1.1.1"] * MAX_HOPS)],
)
def test_an_x_forwarded_for_that_cannot_be_read_leaves_the_proxy(value: str) -> None:
    assert told(xff=value) == PROXY


@pytest.mark.parametrize(
    "value",
    ["", "for", "for=", "for=unknown", "for=_hidden", 'for="_x:_y"', "by=203.0.113.9", "203.0.113.9", "for=[::1]"]
    + ["for=2001:db8::9", 'for="2001:db8::9"', "for=1.2.3.4;for=1.2.3.4", 'for="1.2.3.4', 'for="1\\.2.3.4"']
    + ['host="for=1.2.3.4"', 'host="a;for=1.2.3.4"', "for=1.2.3.4; ;x", "for=1.2.3.4 x", "for = 1.2.3.4"]
    + [
        "for=1.2.3.4,",
        'for=a;host="\\", for=1.2.3.4;x=\\""',
        ", ".join([f"for={CLIENT}"] + ["for=10.1.1.1"] * MAX_HOPS),
    ],
)
def test_a_forwarded_that_cannot_be_read_leaves_the_proxy(value: str) -> None:
    assert told(rfc=value) == PROXY


def test_up_to_max_hops_are_passed_over() -> None:
    assert told(xff=", ".join([CLIENT] + ["10.1.1.1"] * (MAX_HOPS - 1))) == CLIENT
    assert told(rfc=", ".join([f"for={CLIENT}"] + ["for=10.1.1.1"] * (MAX_HOPS - 1))) == CLIENT


def test_two_headers_count_only_where_they_agree() -> None:
    assert told(xff=CLIENT, rfc=f"for={CLIENT}") == CLIENT
    assert told(xff=CLIENT, rfc="for=198.51.100.1") == PROXY
    assert told(xff=CLIENT, rfc="for=unknown") == PROXY
    assert told(xff="unknown", rfc="for=unknown") == PROXY


def test_only_a_trusted_peer_is_believed() -> None:
    assert told(peer="203.0.113.1", xff=CLIENT) is None
    assert told(peer="203.0.113.1", rfc=f"for={CLIENT}") is None
    assert told(peer="192.0.2.7", xff=CLIENT) == CLIENT
    assert told(peer="192.0.2.8", xff=CLIENT) is None
    assert told(peer="2001:db8:1::5", xff=CLIENT) == CLIENT
    assert told(peer="2001:db8:2::5", xff=CLIENT) is None
    assert told(trusted=Networks([]), xff=CLIENT) is None
    assert told() is None


@pytest.mark.parametrize(
    "value",
    ["," * 1_000_000, '"' * 1_000_000, ',"' * 500_000, " \t" * 500_000 + "(", "a=b;" * 250_000 + "=", ";" * 1_000_000]
    + ["," * 1_000_000 + '"', 'a="' + "x" * 1_000_000, "1.2.3.4:" * 100_000, "[" * 1_000_000],
    ids=range(10),
)
def test_a_head_of_the_largest_size_is_no_work(value: str) -> None:
    before = time.process_time()
    assert told(xff=value) == PROXY
    assert told(rfc=value) == PROXY
    assert time.process_time() - before < 20  # of CPU; a million steps for each character would take an hour


@settings(max_examples=300, deadline=None)
@given(value=st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60), right=st.booleans())
def test_what_a_client_writes_is_never_its_address(value: str, right: bool) -> None:
    """The proxy appends; whatever stands before that changes nothing."""
    if right:
        assert told(xff=f"{value}, {CLIENT}") == CLIENT
    else:
        assert told(rfc=f"{value}, for={CLIENT}") == CLIENT


@given(st.lists(st.ip_addresses(), max_size=5), st.ip_addresses())
def test_any_list_of_addresses(hops: list[ipaddress._IPAddressBase], last: ipaddress._IPAddressBase) -> None:
    addresses = [last, *hops]
    found = told(xff=", ".join(map(str, addresses)))
    outside = [a for a in addresses if not TRUSTED.hold(str(a))]
    expected = outside[-1] if outside else last
    mapped = getattr(expected, "ipv4_mapped", None)
    assert found == str(mapped or expected)


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("10.0.0.0/8", ["10.255.255.255", "::ffff:10.1.2.3"], ["11.0.0.0", "9.255.255.255", "::10.0.0.1"]),
        ("10.0.0.128/25", ["10.0.0.128", "10.0.0.255"], ["10.0.0.127", "10.0.1.0"]),
        ("2001:db8::/33", ["2001:db8:7fff::"], ["2001:db8:8000::", "10.0.0.1"]),
        ("::1", ["::1"], ["::2", "127.0.0.1"]),
        ("0.0.0.0/0", ["1.2.3.4", "255.255.255.255"], ["::1", "2001:db8::1"]),
        ("::/0", ["1.2.3.4", "::1"], []),
    ],
)
def test_networks(network: str, inside: list[str], outside: list[str]) -> None:
    networks = Networks(["198.51.100.0/24", network])
    assert all(map(networks.hold, inside))
    assert not any(map(networks.hold, outside))
