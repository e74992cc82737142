"""RS256 and ES256 beside HS256: a key is used with the algorithm of its kind, and nothing in a header changes that."""

from __future__ import annotations

import time
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives import serialization

from tests.auth.tokens import CLAIMS, HEADER, KEY, NOW, PrivateKey, b64, ec_key, jwk, key_set, pem, rsa_key, signed
from zpush.auth.base import Identity
from zpush.auth.jwk import VerifyKey, from_pem, from_secret, read_key_set
from zpush.auth.jwt import MAX_TRIES, JwtVerifier, UnknownKey
from zpush.auth.keys import Pem
from zpush.errors import Unauthorized

RS, ES = {"alg": "RS256"}, {"alg": "ES256"}


def public(key: PrivateKey) -> VerifyKey:
    return from_pem(Pem(pem(key), "keys:1"))


def verifier(*keys: VerifyKey, **options: Any) -> JwtVerifier:
    return JwtVerifier(keys, now_s=lambda: NOW, **options)


def refused(data: bytes, *keys: VerifyKey, **options: Any) -> Unauthorized:
    with pytest.raises(Unauthorized) as caught:
        verifier(*keys, **options).verify(data)
    return caught.value


@pytest.mark.parametrize(("header", "key"), [(RS, rsa_key()), (ES, ec_key())], ids=["RS256", "ES256"])
def test_public_keys_verify(header: dict[str, Any], key: PrivateKey) -> None:
    assert verifier(public(key)).verify(signed(header, CLAIMS, key)) == Identity("d1", "", NOW + 60)
    assert verifier(from_secret(KEY), public(key)).verify(signed(header, CLAIMS, key)).client_id == "d1"


@pytest.mark.parametrize(("algorithm", "key"), [("RS256", rsa_key()), ("ES256", ec_key())])
def test_another_librarys_token(algorithm: str, key: PrivateKey) -> None:
    exp = int(time.time()) + 60
    theirs = pyjwt.encode({"sub": "d1", "exp": exp}, key, algorithm, headers={"kid": "k"}).encode()
    keys = read_key_set(key_set(jwk(key, kid="k"))).keys
    assert JwtVerifier(keys).verify(theirs) == Identity("d1", "", exp)


@pytest.mark.parametrize("secret", [pem(rsa_key()), pem(rsa_key()).rstrip(), pem(rsa_key()).replace(b"\n", b"\r\n")])
def test_a_public_key_is_no_secret(secret: bytes) -> None:
    """The RS256 to HS256 confusion: everybody has the public key, so nobody may sign with it."""
    forged = signed(HEADER, CLAIMS, secret)
    refused(forged, public(rsa_key()))
    refused(forged, public(rsa_key()), algorithms=["HS256", "RS256"])
    refused(forged, public(rsa_key()), from_secret(KEY))
    keys = read_key_set(key_set(jwk(rsa_key(), kid="k"))).keys
    refused(signed({**HEADER, "kid": "k"}, CLAIMS, secret), *keys)
    der = (
        rsa_key().public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    refused(signed(HEADER, CLAIMS, der), public(rsa_key()), from_secret(KEY))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", "RS512", "PS256", "ES384", "EdDSA", None, 7])
def test_no_other_algorithm(algorithm: object) -> None:
    keys = (public(rsa_key()), public(ec_key()), from_secret(KEY))
    header = {"alg": algorithm}
    for key in (KEY, rsa_key(), ec_key()):
        refused(signed(header, CLAIMS, key), *keys)
    unsigned = signed(header, CLAIMS, KEY).rpartition(b".")[0] + b"."
    refused(unsigned, *keys)
    refused(unsigned.rstrip(b"."), *keys)


@pytest.mark.parametrize(
    ("header", "key"),
    [(RS, ec_key()), (ES, rsa_key()), (RS, KEY), (ES, KEY), (RS, rsa_key("other")), (ES, ec_key("other"))],
)
def test_wrongly_signed(header: dict[str, Any], key: bytes | PrivateKey) -> None:
    refused(signed(header, CLAIMS, key), public(rsa_key()), public(ec_key()), from_secret(KEY))


@pytest.mark.parametrize("signature", [b"", b"\0" * 64, b"\0" * 63, b"\xff" * 64, b"\0" * 256])
def test_signatures_that_are_none(signature: bytes) -> None:
    """r = s = 0 verified everything in a Java release of 2022."""
    for header, key in ((RS, rsa_key()), (ES, ec_key())):
        text = signed(header, CLAIMS, key).rpartition(b".")[0]
        refused(text + b"." + b64(signature), public(key))


def test_keys_in_the_header_are_not_used() -> None:
    mine, evil = rsa_key(), rsa_key("evil")
    keys = read_key_set(key_set(jwk(mine, kid="k"))).keys
    for extra in (
        {"jwk": jwk(evil)},
        {"jwk": jwk(evil), "kid": "k"},
        {"jku": "https://evil.example/keys", "kid": "k"},
        {"x5u": "https://evil.example/chain", "kid": "k"},
        {"x5c": ["MIIB"], "kid": "k"},
    ):
        refused(signed({**RS, **extra}, CLAIMS, evil), *keys)
        assert verifier(*keys).verify(signed({**RS, **extra, "kid": "k"}, CLAIMS, mine)).client_id == "d1"


@pytest.mark.parametrize("crit", [["exp"], ["b64"], [], "exp", None, 5, ["jwk"]])
def test_crit_is_refused_whatever_it_names(crit: object) -> None:
    refused(signed({**RS, "exp": 1, "b64": True, "crit": crit}, CLAIMS, rsa_key()), public(rsa_key()))


def test_the_allow_list() -> None:
    keys = (public(rsa_key()), public(ec_key()), from_secret(KEY))
    by_algorithm: dict[str, bytes | PrivateKey] = {"RS256": rsa_key(), "ES256": ec_key(), "HS256": KEY}
    for allowed in by_algorithm:
        for algorithm, key in by_algorithm.items():
            data = signed({"alg": algorithm}, CLAIMS, key)
            if algorithm == allowed:
                assert verifier(*keys, algorithms=[allowed]).verify(data).client_id == "d1"
            else:
                assert not isinstance(refused(data, *keys, algorithms=[allowed]), UnknownKey)


def test_kid_chooses_and_what_has_none_is_always_tried() -> None:
    keys = read_key_set(key_set(jwk(rsa_key("a"), kid="a"), jwk(rsa_key("b"), kid="b"), jwk(ec_key("c"), kid="a"))).keys
    assert verifier(*keys).verify(signed({**RS, "kid": "b"}, CLAIMS, rsa_key("b"))).client_id == "d1"
    assert verifier(*keys).verify(signed({**ES, "kid": "a"}, CLAIMS, ec_key("c"))).client_id == "d1"
    assert verifier(*keys).verify(signed(RS, CLAIMS, rsa_key("b"))).client_id == "d1"
    assert not isinstance(refused(signed({**RS, "kid": "a"}, CLAIMS, rsa_key("b")), *keys), UnknownKey)
    assert isinstance(refused(signed({**RS, "kid": "z"}, CLAIMS, rsa_key("b")), *keys), UnknownKey)
    without = public(rsa_key("z"))
    assert verifier(*keys, without).verify(signed({**RS, "kid": "z"}, CLAIMS, rsa_key("z"))).client_id == "d1"


def test_a_secret_never_makes_an_unknown_key() -> None:
    assert not isinstance(refused(signed({**HEADER, "kid": "z"}, CLAIMS, b"w" * 32), from_secret(KEY)), UnknownKey)
    assert not isinstance(refused(signed(HEADER, CLAIMS, KEY), public(rsa_key())), UnknownKey)
    assert isinstance(refused(signed(RS, CLAIMS, rsa_key())), UnknownKey)


def test_tries_are_bounded() -> None:
    keys = [from_secret(bytes([n]) * 32) for n in range(MAX_TRIES)]
    refused(signed(HEADER, CLAIMS, KEY), *keys, from_secret(KEY))
    assert verifier(*keys[1:], from_secret(KEY)).verify(signed(HEADER, CLAIMS, KEY)).client_id == "d1"


def test_other_keys_take_the_place_of_those_before() -> None:
    it = verifier(public(rsa_key("a")))
    it.use_keys([public(rsa_key("b"))])
    assert it.verify(signed(RS, CLAIMS, rsa_key("b"))).client_id == "d1"
    with pytest.raises(Unauthorized):
        it.verify(signed(RS, CLAIMS, rsa_key("a")))
