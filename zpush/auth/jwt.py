"""Tokens (RFC 7519): from a signed token to an identity, and the signing of our own. Knows no socket and no file.

    sub  client id (required)    exp  end of the connection, Unix seconds (required)    uid  user id
    aud, iss  must match where set in the configuration; nbf and iat must not be in the future where present

Rules. The keys decide which algorithms there are (jwk.py); the header's `alg` and `kid` only choose among the keys of
the configuration. Nothing else in a header is obeyed: `jwk`, `jku`, `x5u` and `x5c` are never looked at, and a `crit`
is refused whatever it names. A token has at most MAX_TOKEN_BYTES before anything is computed. What was wrong goes to
the log, never the token; the client hears 401. joserfc does the cryptography and the claims: docs/authentication.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import ClaimError, JoseError
from joserfc.jwk import OctKey
from joserfc.jws import CompactSignature, JWSRegistry
from msgspec import DecodeError, json

from zpush.auth.base import Identity
from zpush.auth.jwk import ALGORITHMS, PUBLIC_ALGORITHMS, VerifyKey
from zpush.errors import MalformedMessage, Unauthorized
from zpush.protocol.envelope import MAX_TOKEN_BYTES
from zpush.protocol.message import check_id

MAX_TRIES = 8  # keys that one token is tried with; an RSA key takes 30 µs
# Unknown header fields are ignored, as RFC 7515 §4 asks.
_REGISTRY = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
_REGISTRY.max_header_length = MAX_TOKEN_BYTES  # a chain of certificates (x5c) may stand there; the token is bounded
# joserfc meets JSON of an unexpected shape before it has an error for it.
_MALFORMED = (ValueError, TypeError, AttributeError, OverflowError, RecursionError)


class UnknownKey(Unauthorized):
    """The token names a key that we do not have; a set of keys fetched anew may."""


def whole_seconds() -> int:
    return int(time.time())


class JwtVerifier:
    """algorithms: those allowed, () for all that keys are for. audience, issuer: "" for any. now_s: Unix seconds."""

    def __init__(
        self,
        keys: Sequence[VerifyKey] = (),
        *,
        algorithms: Collection[str] = (),
        audience: str = "",
        issuer: str = "",
        leeway_s: float = 30.0,
        now_s: Callable[[], int] = whole_seconds,
    ) -> None:
        self._allowed = frozenset(algorithms or ALGORITHMS)
        self.now_s = now_s
        self.leeway_s = math.ceil(leeway_s)
        wanted = {"sub": "", "exp": "", "aud": audience, "iss": issuer}
        options: dict[str, jwt.ClaimsOption] = {
            name: {"essential": True, "value": value} if value else {"essential": True}
            for name, value in wanted.items()
            if value or name in ("sub", "exp")
        }
        self._claims = jwt.JWTClaimsRegistry(now_s, self.leeway_s, **options)
        self.use_keys(keys)

    def use_keys(self, keys: Sequence[VerifyKey]) -> None:
        """In place of those before."""
        self._keys: dict[str, list[VerifyKey]] = {}
        for key in keys:
            if key.algorithm in self._allowed:
                self._keys.setdefault(key.algorithm, []).append(key)

    def verify(self, token: bytes) -> Identity:
        """The identity a token proves. Raises UnknownKey, else Unauthorized.

        expires_s is `exp` itself: leeway forgives clocks, it does not give time.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthorized(f"a token of {len(token)} bytes; at most {MAX_TOKEN_BYTES} are allowed")
        try:
            signed = jws.extract_compact(token, None, _REGISTRY)
            self._check_signature(signed)
            claims = _read_claims(signed.payload)
            self._claims.validate(claims)
            return Identity(check_id(claims["sub"], "sub"), _user_id(claims), float(claims["exp"]))
        except ClaimError as e:
            raise Unauthorized(f"{e.error}: {e.claim}") from None
        except JoseError as e:
            raise Unauthorized(e.error) from None  # its text may quote the token's header
        except MalformedMessage as e:
            raise Unauthorized(e.reason) from None
        except _MALFORMED as e:
            raise Unauthorized(f"not a token ({type(e).__name__})") from None

    def _check_signature(self, signed: CompactSignature) -> None:
        header = signed.headers()
        if "crit" in header:
            raise Unauthorized("crit in the header")
        key_id = header.get("kid")
        if key_id is not None and not isinstance(key_id, str):
            raise Unauthorized("a kid that is no string")
        keys, is_known = self._choose(header["alg"], key_id)
        for key in keys:
            if jws.validate_compact(signed, key.key, None, _REGISTRY):
                return
        raise Unauthorized("bad_signature") if is_known else UnknownKey("no such key")

    def _choose(self, algorithm: str, key_id: str | None) -> tuple[list[VerifyKey], bool]:
        """The keys to try, and False where what the token names is not among them, but may be in a newer set."""
        may_come = algorithm in self._allowed and algorithm in PUBLIC_ALGORITHMS
        keys = self._keys.get(algorithm, [])
        if not keys and not may_come:
            raise Unauthorized("an alg that no key is for")
        if key_id is None:
            return keys[:MAX_TRIES], bool(keys)
        is_known = not may_come or any(key.key_id == key_id for key in keys)
        return [key for key in keys if key.key_id is None or key.key_id == key_id][:MAX_TRIES], is_known


def _read_claims(payload: bytes) -> jwt.Claims:
    try:
        claims: Any = json.decode(payload)
    except DecodeError:
        raise Unauthorized("invalid_payload") from None
    if not isinstance(claims, dict):
        raise Unauthorized("invalid_payload")
    return claims


def _user_id(claims: jwt.Claims) -> str:
    user_id = claims.get("uid")
    if user_id is None or user_id == "":
        return ""
    if not isinstance(user_id, str):
        raise MalformedMessage("uid must be a string", "uid")
    return check_id(user_id, "uid")


def sign(
    key: bytes,
    client_id: str,
    user_id: str = "",
    *,
    ttl_s: float,
    audience: str = "",
    issuer: str = "",
    now_s: float | None = None,
) -> str:
    """A token for one client, HS256. Raises MalformedMessage where an id cannot be one."""
    now = time.time() if now_s is None else now_s
    claims: jwt.Claims = {"sub": check_id(client_id, "client"), "iat": int(now), "exp": int(now + ttl_s)}
    if user_id:
        claims["uid"] = check_id(user_id, "user")
    if audience:
        claims["aud"] = audience
    if issuer:
        claims["iss"] = issuer
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(key), ["HS256"], _REGISTRY)
