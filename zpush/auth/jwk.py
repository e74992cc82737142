"""Keys that verify tokens: secrets, PEM public keys, and sets of JSON Web Keys (RFC 7517).

Rules. A key is bound to one algorithm by what it is, never by what a token says: a secret to HS256, an RSA key to
RS256, a key on P-256 to ES256. So a public key can never be taken for a secret (the RS256 to HS256 confusion), and
`none` is no key's algorithm. A set holds public keys only; of each only the members that make the key are read. A key
of a set that cannot be used (another algorithm, for encryption, too short, private) is left out with a reason, as
RFC 7517 §5 asks.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from joserfc.errors import InvalidKeyTypeError, JoseError, SecurityWarning
from joserfc.jwk import ECKey, OctKey, RSAKey

from zpush.auth.keys import Pem
from zpush.errors import ConfigError

ALGORITHMS = ("HS256", "RS256", "ES256")
PUBLIC_ALGORITHMS = frozenset({"RS256", "ES256"})
MAX_SET_KEYS = 64
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192  # NIST SP 800-131A; above: a verification would take milliseconds
_PUBLIC_MEMBERS = {"RSA": ("kty", "n", "e"), "EC": ("kty", "crv", "x", "y")}
# What joserfc and cryptography raise for members that are no key.
_UNREADABLE = (JoseError, ValueError, TypeError, KeyError, AttributeError, OverflowError, UnsupportedAlgorithm)


@dataclass(frozen=True)
class VerifyKey:
    """key_id: `kid` of the set it comes from; None: a key that is tried whatever `kid` a token names."""

    algorithm: str
    key_id: str | None
    thumbprint: str = field(repr=False)  # RFC 7638: equal for the same key, however it was written
    key: OctKey | RSAKey | ECKey = field(repr=False, compare=False)


class KeySet(NamedTuple):
    """left_out: why keys of the set are not among `keys`, a reason each."""

    keys: tuple[VerifyKey, ...]
    left_out: tuple[str, ...]


class Unusable(ValueError):
    """A key that does not verify tokens here; the text says why, without the key."""


def from_secret(secret: bytes) -> VerifyKey:
    return _bound(OctKey.import_key(secret), "HS256", None)


def from_pem(pem: Pem) -> VerifyKey:
    """Raises ConfigError with the place."""
    try:
        return _bound_by_kind(_read_pem(pem.text), None)
    except Unusable as e:
        raise ConfigError(f"{pem.place}: {e}") from None
    except _UNREADABLE:
        raise ConfigError(f"{pem.place}: not a public key of RSA or P-256") from None


def read_key_set(document: bytes) -> KeySet:
    """Raises Unusable where it is no set of keys, or none of them can be used."""
    try:
        keys = msgspec.json.decode(document)["keys"]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        raise Unusable("not a set of JSON Web Keys") from None
    if not isinstance(keys, list) or len(keys) > MAX_SET_KEYS:
        raise Unusable(f"not a list of at most {MAX_SET_KEYS} keys")
    found: list[VerifyKey] = []
    left_out: list[str] = []
    for members in keys:
        try:
            found.append(_from_members(members))
        except Unusable as e:
            left_out.append(str(e))
    if not found:
        raise Unusable(f"no key in the set can be used: {left_out[0] if left_out else 'it is empty'}")
    return KeySet(tuple(found), tuple(left_out))


def _from_members(members: Any) -> VerifyKey:
    if not isinstance(members, dict):
        raise Unusable("a key that is no JSON object")
    names = _PUBLIC_MEMBERS.get(str(members.get("kty")))
    if names is None:
        raise Unusable("a key that is neither RSA nor EC")
    if "d" in members:
        raise Unusable("a private key: whoever reads it can sign")
    key_id = members.get("kid")
    if key_id is not None and not isinstance(key_id, str):
        raise Unusable("a kid that is no string")
    try:
        public = {name: members[name] for name in names}
        with warnings.catch_warnings(category=SecurityWarning, action="ignore"):  # the size is tested below
            key = RSAKey.import_key(public) if public["kty"] == "RSA" else ECKey.import_key(public)
        bound = _bound_by_kind(key, key_id)
    except Unusable:
        raise
    except _UNREADABLE:
        raise Unusable("a key whose members cannot be read") from None
    _check_purpose(members, bound.algorithm)
    return bound


def _check_purpose(members: Mapping[str, Any], algorithm: str) -> None:
    if members.get("use", "sig") != "sig":
        raise Unusable("a key that is not for signatures")
    operations = members.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise Unusable("a key that is not for verifying")
    if members.get("alg", algorithm) != algorithm:
        raise Unusable(f"a key for another algorithm than {algorithm}")


def _read_pem(text: bytes) -> RSAKey | ECKey:
    try:
        with warnings.catch_warnings(category=SecurityWarning, action="ignore"):
            return RSAKey.import_key(text)
    except InvalidKeyTypeError:
        return ECKey.import_key(text)


def _bound_by_kind(key: RSAKey | ECKey, key_id: str | None) -> VerifyKey:
    if isinstance(key, ECKey):
        if key.curve_name != "P-256":
            raise Unusable("a key on another curve than P-256")
        return _bound(key, "ES256", key_id)
    bits = key.raw_value.key_size
    if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
        raise Unusable(f"an RSA key of {bits} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are allowed")
    return _bound(key, "RS256", key_id)


def _bound(key: OctKey | RSAKey | ECKey, algorithm: str, key_id: str | None) -> VerifyKey:
    return VerifyKey(algorithm, key_id, key.thumbprint(), key)
