"""auth.mode = "cookie": a value that anybody with the key can make in a few lines, and nobody without it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.auth.tokens import HEADER, KEY, NOW, OTHER, b64
from tests.auth.tokens import token as jwt_token
from tests.protocol.heads import PEER, upgrade
from zpush.auth.base import Identity
from zpush.auth.cookie import CookieAuthenticator, sign
from zpush.errors import MalformedMessage, Unauthorized
from zpush.protocol.handshake import parse


def authenticator(*keys: bytes) -> CookieAuthenticator:
    return CookieAuthenticator(keys or (KEY,), cookie="zp", query_token=True, leeway_s=30.0, now_s=lambda: NOW)


def value(content: object, key: bytes = KEY) -> bytes:
    payload = b64(content if isinstance(content, bytes) else json.dumps(content).encode())
    return payload + b"." + b64(hmac.digest(key, payload, "sha256"))


def refused(data: bytes, *keys: bytes) -> str:
    with pytest.raises(Unauthorized) as caught:
        authenticator(*keys).verify_token(data)
    return str(caught.value)


def test_the_documented_recipe() -> None:
    """As in docs/authentication.md, with the standard library."""
    payload = base64.urlsafe_b64encode(json.dumps({"sub": "d1", "uid": "u1", "exp": NOW + 60}).encode()).rstrip(b"=")
    mac = base64.urlsafe_b64encode(hmac.new(KEY, payload, hashlib.sha256).digest()).rstrip(b"=")
    assert authenticator().verify_token(payload + b"." + mac) == Identity("d1", "u1", NOW + 60)


def test_it_is_found_where_tokens_may_be() -> None:
    data = value({"sub": "d1", "exp": NOW + 60}).decode()
    heads = upgrade(Cookie=f"a=b; zp={data}"), upgrade(Authorization=f"Bearer {data}"), upgrade(f"/ws?token={data}")
    for request in heads:
        assert authenticator().authenticate(parse(request, PEER)) == Identity("d1", "", NOW + 60)
    with pytest.raises(Unauthorized, match="no cookie"):
        authenticator().authenticate(parse(upgrade(Cookie=f"other={data}"), PEER))


def test_every_key_verifies_and_the_first_signs() -> None:
    ours = sign(KEY, "é", "u", ttl_s=60, now_s=NOW).encode()
    assert authenticator(OTHER, KEY).verify_token(ours) == Identity("é", "u", NOW + 60)
    assert "not signed" in refused(ours, OTHER, b"z" * 32)
    with pytest.raises(MalformedMessage):
        sign(KEY, "a\n", ttl_s=60)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        "sub",
        5,
        b"",
        b"{",
        b"\xff",
        b"[" * 5000,
        {"sub": "d1"},
        {"exp": NOW + 60},
        {"sub": "", "exp": NOW + 60},
        {"sub": 5, "exp": NOW + 60},
        {"sub": "a\n", "exp": NOW + 60},
        {"sub": "x" * 256, "exp": NOW + 60},
        {"sub": "d1", "uid": 5, "exp": NOW + 60},
        {"sub": "d1", "uid": "\0", "exp": NOW + 60},
        {"sub": "d1", "exp": str(NOW + 60)},
        {"sub": "d1", "exp": True},
        {"sub": "d1", "exp": None},
        b'{"sub":"d1","exp":NaN}',
        b'{"sub":"d1","exp":1e999}',
        b'{"sub":"\\ud800","exp":9999999999}',
        b'{"sub":"\xff","exp":9999999999}',
        {"sub": "d1", "exp": NOW - 30},
        {"sub": "d1", "exp": 0},
        {"sub": "d1", "exp": -1},
    ],
)
def test_signed_but_not_an_identity(content: object) -> None:
    refused(value(content))


def test_time_and_members() -> None:
    assert authenticator().verify_token(value({"sub": "d1", "exp": NOW - 29, "more": [1]})).expires_s == NOW - 29
    assert authenticator().verify_token(value({"sub": "d1", "exp": NOW + 0.5, "uid": None})) == Identity(
        "d1", "", NOW + 0.5
    )


def test_a_jwt_of_the_same_key_is_no_cookie() -> None:
    refused(jwt_token())
    inner = jwt_token(HEADER, b64(b'{"sub":"d1","exp":9999999999}'))
    refused(inner.partition(b".")[2])


def test_one_value_has_one_spelling() -> None:
    good = value({"sub": "d1", "exp": NOW + 60})
    for other in (good + b"=", good + b"\n", good + b".", b"." + good, good[:-1], good.replace(b".", b"..")):
        refused(other)
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".index(chr(good[-1]))
    twin = good[:-1] + b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[last ^ 1 : (last ^ 1) + 1]
    assert base64.urlsafe_b64decode(twin.partition(b".")[2] + b"=") == hmac.digest(
        KEY, good.partition(b".")[0], "sha256"
    )
    refused(twin)


def test_it_is_bounded_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> bytes:
        raise AssertionError("computed")

    monkeypatch.setattr("zpush.auth.cookie._mac", never)
    assert "65536 bytes" in refused(b"x" * 65_536)


@given(st.binary())
def test_any_bytes_are_unauthorized(data: bytes) -> None:
    refused(data)


@given(st.binary(max_size=200))
def test_any_signed_bytes_are_an_identity_or_unauthorized(payload: bytes) -> None:
    """Also what is no base64url: the key's owner may be careless."""
    for data in (payload + b"." + b64(hmac.digest(KEY, payload, "sha256")), value(payload)):
        refused(data)
