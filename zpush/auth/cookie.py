"""auth.mode = "cookie": a value that the application's own server signs, in a few lines of any language.

    value    = payload "." mac
    payload  = base64url(JSON {"sub": client id, "uid": user id, "exp": Unix seconds})    uid may be left out
    mac      = base64url(HMAC-SHA256(key, payload))                 of payload's text, both without padding

Rules. Nothing is decoded before a key has verified it. The MAC is compared as text and in constant time: one value has
one spelling. The first key signs, all verify. The same keys may sign jwt tokens elsewhere: what those sign contains a
dot, and a payload here never does, so neither passes for the other. There is no algorithm to choose.
"""

from __future__ import annotations

import binascii
import hmac
import math
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence

import msgspec

from zpush.auth.base import Authenticator, Identity
from zpush.errors import MalformedMessage, Unauthorized
from zpush.protocol.envelope import MAX_TOKEN_BYTES
from zpush.protocol.handshake import Request, find_token
from zpush.protocol.message import check_id


class _Payload(msgspec.Struct):
    """Unknown members are ignored."""

    sub: str
    exp: float
    uid: str | None = None


_read = msgspec.json.Decoder(_Payload).decode


class CookieAuthenticator(Authenticator):
    """keys: all verify. cookie: its name; the value may also come where tokens may (find_token)."""

    def __init__(
        self,
        keys: Sequence[bytes],
        *,
        cookie: str = "zpush",
        query_token: bool = False,
        leeway_s: float = 30.0,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._keys = tuple(keys)
        self._cookie = cookie.encode()
        self._query_token = query_token
        self._leeway_s = leeway_s
        self._now_s = now_s

    def authenticate(self, request: Request) -> Identity:
        value = find_token(request, self._cookie, self._query_token)
        if value is None:
            raise Unauthorized("no cookie")
        return self.verify_token(value)

    def verify_token(self, token: bytes) -> Identity:
        """Raises Unauthorized. expires_s is `exp` itself: leeway forgives clocks, it does not give time."""
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthorized(f"a value of {len(token)} bytes; at most {MAX_TOKEN_BYTES} are allowed")
        payload, _, mac = token.rpartition(b".")
        if not any(hmac.compare_digest(_mac(key, payload), mac) for key in self._keys):
            raise Unauthorized("not signed with one of the keys")
        try:
            content = _read(urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
            user_id = check_id(content.uid, "uid") if content.uid else ""
            identity = Identity(check_id(content.sub, "sub"), user_id, content.exp)
        except MalformedMessage as e:
            raise Unauthorized(e.reason) from None
        except (msgspec.DecodeError, binascii.Error, UnicodeDecodeError, RecursionError):
            raise Unauthorized("the payload is not base64url of JSON with sub and exp") from None
        if not math.isfinite(content.exp) or content.exp <= self._now_s() - self._leeway_s:
            raise Unauthorized("expired")
        return identity


def _mac(key: bytes, payload: bytes) -> bytes:
    return urlsafe_b64encode(hmac.digest(key, payload, "sha256")).rstrip(b"=")


def sign(key: bytes, client_id: str, user_id: str = "", *, ttl_s: float, now_s: float | None = None) -> str:
    """A value for one client. Raises MalformedMessage where an id cannot be one."""
    now = time.time() if now_s is None else now_s
    content: dict[str, str | int] = {"sub": check_id(client_id, "client")}
    if user_id:
        content["uid"] = check_id(user_id, "user")
    content["exp"] = int(now + ttl_s)
    payload = urlsafe_b64encode(msgspec.json.encode(content)).rstrip(b"=")
    return (payload + b"." + _mac(key, payload)).decode()
