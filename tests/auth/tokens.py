"""Keys and tokens for tests: real RSA and EC keys, and tokens signed by hand, so that nothing is mended on the way."""

from __future__ import annotations

import base64
import functools
import hmac
import json
import warnings
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, RSAKey

KEY, OTHER = b"k" * 32, b"o" * 32
NOW = 1_800_000_000
CLAIMS: dict[str, Any] = {"sub": "d1", "exp": NOW + 60}
HEADER: dict[str, Any] = {"alg": "HS256", "typ": "JWT"}

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@functools.cache
def rsa_key(name: str = "", bits: int = 2048) -> rsa.RSAPrivateKey:
    """The same for the same name, for making one takes a tenth of a second."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@functools.cache
def ec_key(name: str = "") -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def pem(key: Any) -> bytes:
    """The public key's."""
    public = key if not hasattr(key, "public_key") else key.public_key()
    encoded: bytes = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encoded


def jwk(key: PrivateKey, **members: Any) -> dict[str, Any]:
    """The public key as a JSON Web Key, with members of one's own."""
    public = key.public_key()
    with warnings.catch_warnings(category=SecurityWarning, action="ignore"):
        found = RSAKey.import_key(public) if isinstance(public, rsa.RSAPublicKey) else ECKey.import_key(public)
    return {**found.as_dict(), **members}


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def signed(header: object, claims: object, key: bytes | PrivateKey) -> bytes:
    """Signed by what the key is, whatever the header says; bytes are taken as they are."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    text = b".".join(b64(part) for part in parts)
    if isinstance(key, bytes):
        return text + b"." + b64(hmac.digest(key, text, "sha256"))
    if isinstance(key, rsa.RSAPrivateKey):
        return text + b"." + b64(key.sign(text, padding.PKCS1v15(), hashes.SHA256()))
    r, s = decode_dss_signature(key.sign(text, ec.ECDSA(hashes.SHA256())))
    return text + b"." + b64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))


def token(header: object = HEADER, claims: object = CLAIMS, key: bytes = KEY) -> bytes:
    return signed(header, claims, key)
