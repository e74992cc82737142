"""auth.jwks_url: public keys, fetched at the start and again and again in the background.

Rules. There is at most one fetch at a time; whoever needs one joins it. It is bounded in time and bytes. What fails
changes nothing: the last good keys stay for as long as it takes, and a line says when it began and another when it
ended. A fetch follows the last by auth.jwks_refresh, give or take a tenth, so that a fleet does not ask as one; after a
failure by seconds, then longer, up to a minute. A token that names an unknown key may cause one fetch out of turn, once
a minute over all tokens: a key that was just made is known at once, and nobody can make us a flood.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

import httpx

from zpush import policy
from zpush.auth.fetch import FetchFailed, fetch, open_client
from zpush.auth.jwk import KeySet, Unusable, VerifyKey, read_key_set
from zpush.log import event

FETCH_S = 5.0
MAX_BYTES = 256 * 1024
OUT_OF_TURN_S = 60.0
RETRY_BASE_S, RETRY_CAP_S = 2.0, 60.0
_log = logging.getLogger("zpush.auth")


class KeyUrl:
    """on_keys is called with the whole set after each fetch that brought one."""

    def __init__(
        self, url: str, refresh_s: float, on_keys: Callable[[tuple[VerifyKey, ...]], None], rng: random.Random
    ) -> None:
        self._url = httpx.URL(url)
        self._refresh_s = refresh_s
        self._on_keys = on_keys
        self._rng = rng
        self._client: httpx.AsyncClient | None = None  # None: not started, or stopped
        self._fetching: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failures = 0
        self._next_out_of_turn_s = 0.0  # loop time

    async def start(self) -> None:
        self._client = open_client(connections=1, use_proxies=self._url.scheme == "https")
        await asyncio.wait({self._fetch()})

    async def stop(self) -> None:
        client, self._client = self._client, None  # first: a fetch that ends just now sets no timer any more
        if self._timer is not None:
            self._timer.cancel()
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait({self._fetching})
        if client is not None:
            await client.aclose()

    def fetch_out_of_turn(self) -> asyncio.Task[None] | None:
        """A fetch to wait for with asyncio.wait, it never fails; None where there was one within the minute."""
        if self._fetching is not None:
            return self._fetching
        now_s = asyncio.get_running_loop().time()
        if self._client is None or now_s < self._next_out_of_turn_s:
            return None
        self._next_out_of_turn_s = now_s + OUT_OF_TURN_S
        return self._fetch()

    def _fetch(self) -> asyncio.Task[None]:
        """Begins a fetch, or joins the one under way."""
        if self._fetching is None:
            if self._timer is not None:
                self._timer.cancel()
            self._fetching = asyncio.get_running_loop().create_task(self._fetch_once())
            self._fetching.add_done_callback(self._fetched)
        return self._fetching

    def _fetched(self, task: asyncio.Task[None]) -> None:
        self._fetching = None
        if task.cancelled() or self._client is None:
            return
        if (error := task.exception()) is not None:
            _log.error("fetching the token keys failed", exc_info=error)
            self._failures += 1
        delay_s = self._refresh_s * self._rng.uniform(0.9, 1.1)
        if self._failures:
            backoff_s = policy.backoff_s(self._rng, self._failures - 1, RETRY_BASE_S, RETRY_CAP_S)
            delay_s = min(delay_s, 1.0 + backoff_s)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._fetch)

    async def _fetch_once(self) -> None:
        assert self._client is not None
        request = self._client.build_request("GET", self._url)
        try:
            status, body = await fetch(self._client, request, FETCH_S, MAX_BYTES)
            if status != 200:
                raise FetchFailed(f"the answer is {status}")
            keys = read_key_set(body)
        except (FetchFailed, Unusable) as e:
            self._failures += 1
            if self._failures == 1:
                event(_log, "token keys cannot be fetched", logging.WARNING, host=self._url.host, reason=str(e))
            return
        self._report(keys)
        self._failures = 0
        self._on_keys(keys.keys)

    def _report(self, keys: KeySet) -> None:
        if self._failures:
            event(_log, "token keys are fetched again", host=self._url.host, failures=self._failures)
        for reason in keys.left_out:
            _log.debug("a key of the set is not used: %s", reason)
