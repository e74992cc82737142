"""auth.mode = "dev" answers this machine only, under its own names only."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.protocol.heads import PEER, upgrade
from zpush.auth.base import Identity
from zpush.auth.dev import DevAuthenticator, is_loopback
from zpush.errors import Unauthorized
from zpush.protocol.handshake import Refusal, parse


def authenticate(target: str = "/ws?client=a", peer: str = PEER, host: str = "localhost:8080") -> Identity:
    return DevAuthenticator().authenticate(parse(upgrade(target, Host=host), peer))


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "app.localhost", "127.0.0.1:8080", "127.8.8.8", "[::1]:8080"]
)
def test_this_machines_names(host: str) -> None:
    assert authenticate(host=host) == Identity("a")


@pytest.mark.parametrize(
    "host",
    ["evil.com", "localhost.evil.com", "evillocalhost", "10.0.0.1", "127.0.0.1.evil.com", "[::2]", "0.0.0.0", "0"],
)
def test_dns_rebinding_is_refused(host: str) -> None:
    with pytest.raises(Refusal) as caught:
        authenticate(host=host)
    assert (caught.value.status, caught.value.result) == (400, "origin")


@pytest.mark.parametrize("peer", ["10.0.0.1:5", "[2001:db8::1]:5", "[::ffff:10.0.0.1]:5", "0.0.0.0:5", "", "unix"])
def test_peers_elsewhere_are_refused(peer: str) -> None:
    with pytest.raises(Unauthorized):
        authenticate(peer=peer)


@pytest.mark.parametrize("peer", ["127.0.0.1:5", "127.1.2.3:5", "[::1]:5", "[::ffff:127.0.0.1]:5"])
def test_peers_here(peer: str) -> None:
    assert authenticate(peer=peer).client_id == "a"


def test_a_user_and_no_end() -> None:
    assert authenticate("/ws?client=a&user=u") == Identity("a", "u", None)


@pytest.mark.parametrize("client_id", ["é", "😀 phone", "a b", "a:b|c{d}", "a/b?c#d", "x" * 255])
def test_any_text_is_a_client_id(client_id: str) -> None:
    assert authenticate(f"/ws?client={quote(client_id, safe='')}").client_id == client_id


@pytest.mark.parametrize("bad", ["%0A", "%00", "x" * 256, "%C2%85", "%ff", "a&client=b", "a&user=%00"])
def test_what_is_no_client_id_is_malformed(bad: str) -> None:
    with pytest.raises(Refusal) as caught:
        authenticate(f"/ws?client={bad}")
    assert caught.value.status == 400


@pytest.mark.parametrize("target", ["/ws", "/ws?client=", "/ws?token=a"])
def test_who_does_not_say_who_it_is_is_told_how(target: str) -> None:
    with pytest.raises(Refusal, match=r"/ws\?client=ID") as caught:
        authenticate(target)
    assert (caught.value.status, caught.value.result) == (401, "unauthorized")


def test_loopback() -> None:
    assert is_loopback("127.255.0.1") and is_loopback("::1")
    assert not is_loopback("localhost") and not is_loopback("128.0.0.1")
