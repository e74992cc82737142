"""What a token must be: whole, timely, and signed with a key of ours. PyJWT is the second opinion."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt as pyjwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.auth.tokens import CLAIMS, HEADER, KEY, NOW, OTHER, b64, token
from zpush.auth.base import Identity
from zpush.auth.jwk import from_secret
from zpush.auth.jwt import JwtVerifier, sign
from zpush.errors import MalformedMessage, Unauthorized
from zpush.protocol.envelope import MAX_TOKEN_BYTES


def verifier(*keys: bytes, **options: Any) -> JwtVerifier:
    return JwtVerifier([from_secret(key) for key in keys or (KEY,)], now_s=lambda: NOW, **options)


def refused(data: bytes, **options: Any) -> str:
    with pytest.raises(Unauthorized) as caught:
        verifier(**options).verify(data)
    return str(caught.value)


def test_an_identity() -> None:
    assert verifier().verify(token()) == Identity("d1", "", NOW + 60)
    assert verifier().verify(token(claims={**CLAIMS, "uid": "u1"})) == Identity("d1", "u1", NOW + 60)
    assert verifier().verify(token(claims={**CLAIMS, "sub": "😀:é"})).client_id == "😀:é"
    assert verifier().verify(token(claims={**CLAIMS, "uid": None})).user_id == ""


def test_another_librarys_token_and_ours_with_another_library() -> None:
    exp = int(time.time()) + 60
    theirs = pyjwt.encode({"sub": "d1", "exp": exp}, KEY, "HS256").encode()
    assert JwtVerifier([from_secret(KEY)]).verify(theirs) == Identity("d1", "", exp)
    ours = sign(KEY, "d1", "u1", ttl_s=60, audience="a", issuer="i")
    claims = pyjwt.decode(ours, KEY, ["HS256"], audience="a", issuer="i", options={"require": ["exp", "iat", "sub"]})
    assert (claims["sub"], claims["uid"]) == ("d1", "u1")


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"alg": "none"},
        {"alg": "None"},
        {"alg": ""},
        {"alg": "hs256"},
        {"alg": "HS512"},
        {"alg": "RS256"},
        {"alg": ["HS256"]},
        {"alg": {}},
        {"alg": 1},
        {"alg": None},
        {"alg": "HS256", "crit": ["x"], "x": 1},
        {"alg": "HS256", "crit": 5},
        {"alg": "HS256", "b64": False, "crit": ["b64"]},
        ["alg"],
        "alg",
        1,
        b"",
        b"\xff",
        b"[" * 5000,
    ],
)
def test_headers(header: object) -> None:
    refused(token(header))


def test_no_signature_for_alg_none() -> None:
    unsigned = b64(b'{"alg":"none"}') + b"." + b64(json.dumps(CLAIMS).encode()) + b"."
    refused(unsigned)
    refused(unsigned.rstrip(b"."))


def test_a_key_in_the_token_is_not_used() -> None:
    own = {"kty": "oct", "k": b64(OTHER).decode()}
    refused(token({**HEADER, "jwk": own}, key=OTHER))
    refused(token({**HEADER, "jku": "http://127.0.0.1:1/keys", "kid": "x"}, key=OTHER))
    assert verifier().verify(token({**HEADER, "jwk": own, "kid": "unknown", "more": 1})).client_id == "d1"


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW + 60},
        {"sub": "d1"},
        {"sub": None, "exp": NOW + 60},
        {"sub": 5, "exp": NOW + 60},
        {"sub": "", "exp": NOW + 60},
        {"sub": "a\nb", "exp": NOW + 60},
        {"sub": "a\0", "exp": NOW + 60},
        {"sub": "x" * 256, "exp": NOW + 60},
        {**CLAIMS, "uid": 7},
        {**CLAIMS, "uid": ["u"]},
        {**CLAIMS, "uid": "a\n"},
        {**CLAIMS, "exp": str(NOW + 60)},
        {**CLAIMS, "exp": True},
        {**CLAIMS, "exp": 10**400},
        {**CLAIMS, "nbf": "x"},
        [],
        "sub",
        b"",
        b"{",
        b'{"sub":"d1","exp":NaN}',
        b'{"sub":"d1","exp":1e999}',
        b'{"sub":"\\ud800","exp":9999999999}',
        b"[" * 5000,
        b'{"sub":"d1","exp":9999999999,"x":' + b"[" * 5000,
        b"9" * 6000,
    ],
)
def test_claims(claims: object) -> None:
    refused(token(claims=claims))


@pytest.mark.parametrize(
    ("claims", "accepted"),
    [
        ({"exp": NOW + 1}, True),
        ({"exp": NOW - 29}, True),
        ({"exp": NOW - 30}, False),
        ({"nbf": NOW + 30}, True),
        ({"nbf": NOW + 31}, False),
        ({"iat": NOW + 31}, False),
    ],
)
def test_time_with_leeway(claims: dict[str, int], accepted: bool) -> None:
    data = token(claims={**CLAIMS, **claims})
    if accepted:
        assert verifier(leeway_s=30.0).verify(data).expires_s == {**CLAIMS, **claims}["exp"]
    else:
        refused(data, leeway_s=30.0)


@pytest.mark.parametrize(
    ("audience", "issuer", "claims", "accepted"),
    [
        ("a", "", {"aud": "a"}, True),
        ("a", "", {"aud": ["b", "a"]}, True),
        ("a", "", {"aud": "b"}, False),
        ("a", "", {"aud": []}, False),
        ("a", "", {"aud": {"a": 1}}, False),
        ("a", "", {}, False),
        ("", "", {"aud": "b", "iss": "j"}, True),
        ("", "i", {"iss": "i"}, True),
        ("", "i", {"iss": "j"}, False),
        ("", "i", {"iss": ["i"]}, False),
        ("", "i", {}, False),
    ],
)
def test_audience_and_issuer(audience: str, issuer: str, claims: dict[str, Any], accepted: bool) -> None:
    data = token(claims={**CLAIMS, **claims})
    if accepted:
        assert verifier(audience=audience, issuer=issuer).verify(data).client_id == "d1"
    else:
        refused(data, audience=audience, issuer=issuer)


def test_every_key_verifies_and_no_other() -> None:
    several = verifier(OTHER, b"z" * 32, KEY)
    assert several.verify(token()).client_id == several.verify(token(key=OTHER)).client_id == "d1"
    with pytest.raises(Unauthorized, match="bad_signature"):
        several.verify(token(key=b"w" * 32))


@given(st.data())
def test_any_change_to_a_token_is_unauthorized(data: st.DataObject) -> None:
    valid = token()
    mutant = bytearray(valid)
    at = data.draw(st.integers(0, len(valid) - 1))
    mutant[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    if bytes(mutant) != valid:
        refused(bytes(mutant))


@given(st.one_of(st.binary(), st.lists(st.binary(max_size=60).map(b64), min_size=2, max_size=4).map(b".".join)))
def test_any_bytes_are_unauthorized(data: bytes) -> None:
    refused(data)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda j: st.lists(j) | st.dictionaries(
    st.sampled_from(["alg", "kid", "crit", "b64", "typ", "x"]), j), max_leaves=8))  # fmt: skip
def test_any_signed_header_and_claims_are_an_identity_or_unauthorized(value: object) -> None:
    for data in (token(header=value), token(claims=value), token(header={**HEADER, "x": value, "kid": value})):
        try:
            verifier().verify(data)
        except Unauthorized:
            continue


def test_a_token_is_bounded_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError("a token past the bound was decoded")

    monkeypatch.setattr("zpush.auth.jwt.jws.extract_compact", never)
    assert str(MAX_TOKEN_BYTES) in refused(b"x" * (MAX_TOKEN_BYTES + 1))
    refused(b"x" * 65_536)


@pytest.mark.parametrize(
    "data",
    [
        token({"alg": "s3cret\n"}),
        token({**HEADER, "crit": ["s3cret"]}),
        token(claims={"sub": "s3cret\n", "exp": NOW + 1}),
        token(claims={**CLAIMS, "exp": "s3cret"}),
        b"s3cret",
    ],
)
def test_the_reason_quotes_nothing_of_the_token(data: bytes) -> None:
    reason = refused(data)
    assert reason and "s3cret" not in reason and "\n" not in reason


def test_sign() -> None:
    signed = sign(KEY, "é", "u", ttl_s=90, now_s=NOW).encode()
    assert verifier().verify(signed) == Identity("é", "u", NOW + 90)
    with pytest.raises(MalformedMessage):
        sign(KEY, "a\n", ttl_s=90)
