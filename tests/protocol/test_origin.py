"""Whose pages may connect."""

from __future__ import annotations

import pytest

from tests.protocol.heads import PEER, upgrade
from zpush.errors import ConfigError
from zpush.protocol.head import Refusal, parse
from zpush.protocol.origin import Origins, host_name

LISTED = ["https://app.example.com", "https://*.example.org", "https://*.example.net:8443", "capacitor://localhost"]


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("https://push.example.com", "push.example.com", True),
        ("http://push.example.com:8081", "push.example.com:8080", True),
        ("http://PUSH.example.com", "push.Example.com", True),
        ("http://[::1]:8081", "[::1]:8080", True),
        ("http://127.0.0.1:8081", "127.0.0.1:8080", True),
        ("http://localhost:8081", "127.0.0.1:8080", False),
        ("https://evil.com", "push.example.com", False),
        ("https://push.example.com.evil.com", "push.example.com", False),
        ("https://evilpush.example.com", "push.example.com", False),
        ("https://push.example.com@evil.com", "push.example.com", False),
        ("https://push.example.com/", "push.example.com", False),
        ("capacitor://localhost", "localhost", False),
        ("null", "push.example.com", False),
        ("", "push.example.com", False),
        ("https://a:b", "a:b", False),
    ],
)
def test_without_a_list_the_hosts_own_pages_connect(origin: str, host: str, allowed: bool) -> None:
    assert Origins([]).allows(origin.encode(), host.encode()) is allowed


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example.com", True),
        ("https://APP.example.com", True),
        ("http://app.example.com", False),
        ("https://app.example.com:8443", False),
        ("https://a.example.org", True),
        ("https://a.b.example.org", True),
        ("https://example.org", False),
        ("https://.example.org", False),
        ("https://a..example.org", False),
        ("https://evilexample.org", False),
        ("https://evil.com/.example.org", False),
        ("https://evil.com#.example.org", False),
        ("https://evil.com:1.example.org", False),
        ("https://u@a.example.org", False),
        ("https://a.example.org.evil.com", False),
        ("https://a.example.net:8443", True),
        ("https://a.example.net", False),
        ("capacitor://localhost", True),
        ("null", False),
        ("https://push.example.com", False),  # the host's own, which a list does not let in
    ],
)
def test_with_a_list_it_decides(origin: str, allowed: bool) -> None:
    assert Origins(LISTED).allows(origin.encode(), b"push.example.com") is allowed


def test_a_star_lets_everybody_in() -> None:
    assert Origins(["https://a.example.com", "*"]).allows(b"https://evil.com", b"push.example.com")
    assert Origins(["*"]).allows(b"null", b"push.example.com")


@pytest.mark.parametrize(
    "pattern",
    ["", "app.example.com", "https://", "https://*", "https://a.*.com", "https://a/", "https://a:x", "*.a.com"],
)
def test_what_is_no_pattern_stops_the_start(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"connections\.origins"):
        Origins([pattern])


def test_check_answers_the_origin_as_sent_or_refuses() -> None:
    origins = Origins([])
    assert origins.check(parse(upgrade(), PEER)) == b""
    assert origins.check(parse(upgrade(Origin="https://Push.example.com"), PEER)) == b"https://Push.example.com"
    with pytest.raises(Refusal) as caught:
        origins.check(parse(upgrade(Origin="https://evil.com"), PEER))
    assert (caught.value.status, caught.value.result) == (400, "origin")


@pytest.mark.parametrize(
    ("site", "refused"), [("cross-site", True), ("same-site", True), ("same-origin", False), ("none", False)]
)
def test_a_foreign_page_cannot_ask_without_origin(site: str, refused: bool) -> None:
    request = parse(upgrade("/sse", Sec_Fetch_Site=site), PEER)
    if refused:
        with pytest.raises(Refusal, match="without Origin"):
            Origins(["*"]).check(request)
    else:
        assert Origins([]).check(request) == b""


@pytest.mark.parametrize(
    ("host", "name"),
    [("A.com:80", "a.com"), ("a.com", "a.com"), ("a.com:", "a.com"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")],
)
def test_host_name(host: str, name: str) -> None:
    assert host_name(host.encode()) == name.encode()
