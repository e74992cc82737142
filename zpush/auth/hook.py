"""auth.mode = "hook": the user's own service is asked, by an HTTP call for each handshake.

    POST auth.hook_url    {"by": "request"|"message", "path", "query", "headers": {…}, "peer", "last_event_id", "token"}
    200 {"client": "…", "user": "…", "expires": Unix seconds}      who it is; user and expires may be left out
    401                                                           not known: the client gets a new token first
    403                                                           not wanted: the client does not come back

Rules. Everything else, and no answer within auth.hook_timeout, is a failure: the client hears 503 with Retry-After, or
with auth.hook_down = "allow_cached" is who it was by the last good answer, if that is younger than auth.hook_stale.
At most auth.hook_concurrency calls are under way; one more is a failure as well, and never waits. The same question
asked again joins the call that is under way. TRIP failures in a row, and the hook is down: nobody waits for a timeout
any more, one call a second finds out when it is back. A good answer holds for auth.hook_cache, by a digest of all that
the service was told but for Last-Event-ID: a question with one is always asked, for what the client has missed
may be why the service wants to know. A refusal is never kept, and ends what was kept.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence

import httpx
import msgspec

from zpush import policy
from zpush.auth.answer import read_identity
from zpush.auth.base import Authenticator, Identity
from zpush.auth.cache import AnswerCache, digest
from zpush.auth.fetch import FetchFailed, fetch, open_client
from zpush.errors import Unauthorized
from zpush.log import SparseLog, event
from zpush.protocol.envelope import MAX_TOKEN_BYTES
from zpush.protocol.handshake import Refusal, Request, find_token, last_event_id, unavailable

MAX_ANSWER_BYTES = 16 * 1024
TRIP = 5
PROBE_S = 1.0
_log = logging.getLogger("zpush.auth")


class Question(msgspec.Struct, frozen=True):
    """What the service is told. By a message there is only a token; peer is an address without its port."""

    by: str
    token: str | None
    path: str = ""
    query: str = ""
    headers: dict[str, str] = {}
    peer: str = ""
    last_event_id: str | None = None


class HookAuthenticator(Authenticator):
    """Settings as in [auth]; keep_s: auth.hook_stale, or 0 with auth.hook_down = "refuse"."""

    def __init__(
        self,
        url: str,
        *,
        headers: Sequence[str] = (),
        timeout_s: float = 3.0,
        concurrency: int = 100,
        cache_s: float = 10.0,
        keep_s: float = 0.0,
        capacity: int = 100_000,
        cookie: str = "",
        query_token: bool = False,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._url = httpx.URL(url)
        self._headers = tuple((name.lower().encode(), name.lower()) for name in headers)
        self._timeout_s = timeout_s
        self._concurrency = concurrency
        self._cache_s = cache_s
        self._keep_s = keep_s
        self._cookie = cookie.encode()
        self._query_token = query_token
        self._now_s = now_s
        self._answers = AnswerCache(capacity, max(cache_s, keep_s))
        self._calls: dict[bytes, asyncio.Task[Identity]] = {}
        self._failures = 0  # in a row
        self._probe_s = 0.0  # when the hook is down: the next call, in loop time
        self._rng = random.Random()
        self._sparse = SparseLog(_log)
        self._client: httpx.AsyncClient | None = None

    # ---- questions

    def authenticate(self, request: Request) -> Identity | Awaitable[Identity]:
        token = find_token(request, self._cookie, self._query_token)
        question = Question(
            "request",
            _text(token),
            request.path,
            request.query.decode("latin-1"),
            {name: value.decode("latin-1") for key, name in self._headers if (value := request.headers.get(key))},
            request.peer_host,
        )
        return self._ask(question, last_event_id(request))

    def verify_token(self, token: bytes) -> Identity | Awaitable[Identity]:
        return self._ask(Question("message", _text(token)), None)

    def _ask(self, question: Question, event_id: str | None) -> Identity | Awaitable[Identity]:
        body = msgspec.json.encode(question)
        name = call_name = digest(body)
        loop_s = asyncio.get_running_loop().time()
        if event_id is None:
            known = self._answers.get(name, self._cache_s, loop_s, self._now_s()) if self._cache_s else None
            if known is not None:
                return known
        else:
            body = msgspec.json.encode(msgspec.structs.replace(question, last_event_id=event_id))
            call_name = digest(body)
        call = self._calls.get(call_name)
        if call is None:
            if not self._may_call(loop_s):
                return self._without(name)
            call = asyncio.get_running_loop().create_task(self._call(call_name, name, body))
            self._calls[call_name] = call
        return asyncio.shield(call)  # whoever stops waiting does not stop it for the others

    def _may_call(self, loop_s: float) -> bool:
        if len(self._calls) >= self._concurrency:
            self._sparse.warning("the hook is busy", calls=len(self._calls))
            return False
        if self._failures >= TRIP:
            if loop_s < self._probe_s:
                return False
            self._probe_s = loop_s + PROBE_S
        return True

    def _without(self, name: bytes) -> Identity:
        """What holds while the hook gives no answer."""
        loop_s = asyncio.get_running_loop().time()
        known = self._answers.get(name, self._keep_s, loop_s, self._now_s()) if self._keep_s else None
        if known is not None:
            return known
        seconds = policy.retry_after_s(self._rng, 1, 10)
        raise unavailable("unavailable", "authentication is away for the moment", seconds)

    # ---- the call

    async def _call(self, call_name: bytes, name: bytes, body: bytes) -> Identity:
        try:
            identity = read_identity(*await self._post(body), self._now_s())
        except FetchFailed as e:
            self._failed(str(e))
            return self._without(name)
        except (Unauthorized, Refusal):
            self._answered()
            self._answers.forget(name)
            raise
        finally:
            del self._calls[call_name]
        self._answered()
        self._answers.put(name, identity, asyncio.get_running_loop().time())
        return identity

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        if self._client is None:
            raise FetchFailed("the server is not started, or stops")
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        request = self._client.build_request("POST", self._url, content=body, headers=headers)
        return await fetch(self._client, request, self._timeout_s, MAX_ANSWER_BYTES)

    def _failed(self, reason: str) -> None:
        self._failures += 1
        if self._failures == TRIP:
            self._probe_s = asyncio.get_running_loop().time() + PROBE_S
            policy_name = "allow_cached" if self._keep_s else "refuse"
            event(_log, "the hook is down", logging.WARNING, host=self._url.host, hook_down=policy_name, reason=reason)
        elif self._failures < TRIP:
            self._sparse.warning("the hook failed", host=self._url.host, reason=reason)

    def _answered(self) -> None:
        if self._failures >= TRIP:
            event(_log, "the hook is back", host=self._url.host, failures=self._failures)
        self._failures = 0

    # ---- life

    def take_over(self, old: Authenticator) -> None:
        """The answers, where the same service is asked: it may be down just now."""
        if isinstance(old, HookAuthenticator) and old._url == self._url and old._headers == self._headers:
            self._answers.take(old._answers)

    async def start(self) -> None:
        self._client = open_client(self._concurrency, use_proxies=False)  # tokens go nowhere else

    async def stop(self) -> None:
        """What is under way is answered or fails within auth.hook_timeout."""
        if self._calls:
            await asyncio.wait(self._calls.values())
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()


def _text(token: bytes | None) -> str | None:
    if token is not None and len(token) > MAX_TOKEN_BYTES:
        raise Unauthorized(f"a token of {len(token)} bytes; at most {MAX_TOKEN_BYTES} are allowed")
    return None if token is None else token.decode("latin-1")
