"""auth.mode = "jwt": the token of a request or message, verified with keys from files and from a URL.

Rules. A token that was verified before is known by its digest (cache.py); the cache is emptied whenever the keys are
others than before. A token that names an unknown key waits for at most one fetch of the keys (jwks.py). While there is
a URL and it never gave a key, what nobody can verify is 503, not 401: the token may be good, and a client that hears
401 throws it away.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Sequence

from zpush import policy
from zpush.auth.base import Authenticator, Identity
from zpush.auth.cache import TokenCache, digest
from zpush.auth.jwk import VerifyKey
from zpush.auth.jwks import KeyUrl
from zpush.auth.jwt import JwtVerifier, UnknownKey
from zpush.errors import Unauthorized
from zpush.log import event
from zpush.protocol.envelope import MAX_TOKEN_BYTES
from zpush.protocol.handshake import Refusal, Request, find_token, unavailable

_log = logging.getLogger("zpush.auth")


class JwtAuthenticator(Authenticator):
    """keys: those from files. url: "" for none; refresh_s: auth.jwks_refresh. capacity: auth.token_cache."""

    def __init__(
        self,
        verifier: JwtVerifier,
        keys: Sequence[VerifyKey],
        *,
        url: str = "",
        refresh_s: float = 600.0,
        capacity: int = 0,
        cookie: str = "",
        query_token: bool = False,
    ) -> None:
        self._verifier = verifier
        self._file_keys = tuple(keys)
        self._url_keys: tuple[VerifyKey, ...] = ()
        self._rng = random.Random()
        self._key_url = KeyUrl(url, refresh_s, self._use_url_keys, self._rng) if url else None
        self._url = url
        self._cache = TokenCache(capacity, verifier.leeway_s)
        self._cookie = cookie.encode()
        self._query_token = query_token
        verifier.use_keys(self._file_keys)

    def authenticate(self, request: Request) -> Identity | Awaitable[Identity]:
        token = find_token(request, self._cookie, self._query_token)
        if token is None:
            raise Unauthorized("no token")
        return self.verify_token(token)

    def verify_token(self, token: bytes) -> Identity | Awaitable[Identity]:
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthorized(f"a token of {len(token)} bytes; at most {MAX_TOKEN_BYTES} are allowed")
        name = digest(token)
        identity = self._cache.get(name, self._verifier.now_s())
        if identity is not None:
            return identity
        try:
            return self._verify(token, name)
        except UnknownKey:
            fetching = self._key_url.fetch_out_of_turn() if self._key_url is not None else None
            if fetching is None:
                self._check_keys_came()
                raise
            return self._verify_after(fetching, token, name)

    async def _verify_after(self, fetching: asyncio.Task[None], token: bytes, name: bytes) -> Identity:
        await asyncio.wait({fetching})  # bounded by the fetch's own time
        try:
            return self._verify(token, name)
        except UnknownKey:
            self._check_keys_came()
            raise

    def _verify(self, token: bytes, name: bytes) -> Identity:
        identity = self._verifier.verify(token)
        self._cache.put(name, identity, self._verifier.now_s())
        return identity

    def _check_keys_came(self) -> None:
        if self._key_url is not None and not self._url_keys:
            raise _no_keys_yet(self._rng) from None

    def _use_url_keys(self, keys: tuple[VerifyKey, ...]) -> None:
        if keys == self._url_keys:
            return
        changed, self._url_keys = bool(self._url_keys), keys
        self._verifier.use_keys((*self._file_keys, *keys))
        self._cache.clear()
        event(_log, "token keys have changed" if changed else "token keys are fetched", keys=len(keys))

    def take_over(self, old: Authenticator) -> None:
        """The URL's keys: it may be away just now. Not the cache: what was verified by other settings is not kept."""
        if isinstance(old, JwtAuthenticator) and self._url and old._url == self._url:
            self._use_url_keys(old._url_keys)

    async def start(self) -> None:
        if self._key_url is not None:
            await self._key_url.start()

    async def stop(self) -> None:
        if self._key_url is not None:
            await self._key_url.stop()


def _no_keys_yet(rng: random.Random) -> Refusal:
    return unavailable("unavailable", "the keys of tokens are not known yet", policy.retry_after_s(rng, 1, 10))
