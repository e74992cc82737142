"""Which keys verify, and what becomes of those that do not."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from joserfc.jwk import RSAKey

from tests.auth.tokens import b64, ec_key, jwk, key_set, pem, rsa_key
from zpush.auth.jwk import MAX_SET_KEYS, Unusable, from_pem, from_secret, read_key_set
from zpush.auth.keys import Pem
from zpush.errors import ConfigError


def test_a_key_has_one_algorithm() -> None:
    found = read_key_set(key_set(jwk(rsa_key(), kid="r", use="sig"), jwk(ec_key(), alg="ES256", key_ops=["verify"])))
    assert [(key.algorithm, key.key_id) for key in found.keys] == [("RS256", "r"), ("ES256", None)]
    assert found.left_out == ()
    assert from_secret(b"k" * 32).algorithm == "HS256"


def test_the_same_key_is_equal_however_it_is_written() -> None:
    (in_set,) = read_key_set(key_set(jwk(rsa_key(), alg="RS256", x5t="x"))).keys
    assert from_pem(Pem(pem(rsa_key()), "f:1")) == in_set
    assert from_pem(Pem(pem(rsa_key("other")), "f:1")) != in_set
    (named,) = read_key_set(key_set(jwk(rsa_key(), kid="k"))).keys
    assert named != in_set


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (5, "no JSON object"),
        ({}, "neither RSA nor EC"),
        ({"kty": "oct", "k": "a" * 43}, "neither RSA nor EC"),
        ({"kty": "OKP", "crv": "Ed25519", "x": "AA"}, "neither RSA nor EC"),
        ({"kty": ["RSA"]}, "neither RSA nor EC"),
        ({"kty": "RSA"}, "cannot be read"),
        ({"kty": "RSA", "n": "!", "e": "AQAB"}, "cannot be read"),
        ({"kty": "RSA", "n": 5, "e": "AQAB"}, "cannot be read"),
        ({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, "cannot be read"),
        ({"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA"}, "cannot be read"),
        (jwk(rsa_key(), kid=7), "kid"),
        (jwk(rsa_key(), use="enc"), "not for signatures"),
        (jwk(rsa_key(), key_ops=["encrypt"]), "not for verifying"),
        (jwk(rsa_key(), key_ops="verify"), "not for verifying"),
        (jwk(rsa_key(), alg="RS512"), "another algorithm"),
        (jwk(rsa_key(), alg="HS256"), "another algorithm"),
        (jwk(ec.generate_private_key(ec.SECP384R1())), "another curve"),
        (jwk(rsa_key("short", 1024)), "1024 bits"),
        (RSAKey.import_key(rsa_key()).as_dict(private=True), "private"),
    ],
)
def test_what_cannot_be_used_is_left_out(member: Any, reason: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_key_set(key_set(member, jwk(ec_key())))
    assert [key.algorithm for key in found.keys] == ["ES256"]
    assert len(found.left_out) == 1 and reason in found.left_out[0]
    with pytest.raises(Unusable, match="no key in the set"):
        read_key_set(key_set(member))


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"keys":5}',
        b'{"keys":[]}',
        b'{"keys":{}}',
        b"[" * 100_000,
        b"\xff",
        key_set(*[jwk(ec_key())] * (MAX_SET_KEYS + 1)),
    ],
)
def test_what_is_no_set(document: bytes) -> None:
    with pytest.raises(Unusable):
        read_key_set(document)


def other_pem(key: Any) -> bytes:
    encoded: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (other_pem(ed25519.Ed25519PrivateKey.generate()), "RSA or P-256"),
        (other_pem(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (other_pem(ec.generate_private_key(ec.BrainpoolP256R1())), "P-256"),
        (pem(rsa_key("short", 1024)), "1024 bits"),
        (b"-----BEGIN PUBLIC KEY-----\n" + b64(b"x" * 60) + b"\n-----END PUBLIC KEY-----\n", "RSA or P-256"),
        (b"-----BEGIN PUBLIC KEY-----\n", "RSA or P-256"),
    ],
)
def test_a_pem_block_that_cannot_be_used_is_named(text: bytes, reason: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConfigError, match=f"keys:7: .*{reason}"):
            from_pem(Pem(text, "keys:7"))


def test_nothing_of_a_secret_is_shown() -> None:
    assert "kkkk" not in repr(from_secret(b"k" * 32)) and "thumbprint" not in repr(from_secret(b"k" * 32))
