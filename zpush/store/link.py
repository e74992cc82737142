"""A connection that is kept: find the server, dial, greet, serve, and again when it is lost.

Rules. A server that is away, loads, has another role or refuses the password is tried again for ever, with jittered
backoff, since each of these can be mended over there; the cause stands in `reason` and once in the log. Where the
server is, is asked anew each time. A change of who answers is remembered until a usable connection reports it, so
that a primary that was a replica meanwhile counts as changed.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from zpush.errors import Unavailable
from zpush.log import event
from zpush.store.endpoint import Endpoint
from zpush.store.greeting import Greeting, Identity
from zpush.store.pipeline import Pipeline
from zpush.store.replies import ReplyError

BACKOFF_MIN_S = 0.05
BACKOFF_MAX_S = 2.0
DIAL_TIMEOUT_S = 3.0  # find, connect, TLS and greeting; one lost SYN (repeated after 1 s) fits in
log = logging.getLogger("zpush.store")


class Link:
    """pipeline: the newest one, usable or not: who calls on a lost one is refused with its reason."""

    def __init__(
        self,
        find: Callable[[], Awaitable[Endpoint]],
        where: str,
        greeting: Greeting,
        *,
        replica: bool = False,
        connected: Callable[[bool], None] | None = None,
        lost: Callable[[], None] | None = None,
    ) -> None:
        """where: until it is found. connected(changed): after each connect. lost(): after each end and failed try."""
        self.where = where
        self.pipeline = Pipeline(where, greeting.reply_timeout_s)
        self._find = find
        self._greeting = greeting
        self._replica = replica
        self._connected = connected
        self._lost = lost
        self._identity: Identity | None = None
        self._changed = False
        self._explained = ""  # the last reason that went to the log
        self.first_attempt = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"store {where}")

    @property
    def up(self) -> bool:
        return self.pipeline.usable

    @property
    def reason(self) -> str:
        """Why it is not up, from the moment that it is not; "" where it is."""
        return "" if self.up else self.pipeline.refusal

    def leave_unless_at(self, endpoint: Endpoint) -> None:
        """The server has moved, whatever the old one says."""
        if self.up and self.where != endpoint.where:
            self.pipeline.abort(f"the primary is at {endpoint.where} now")

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        await self.pipeline.close()
        self.pipeline.refusal = "stopped"

    async def _run(self) -> None:
        backoff_s = BACKOFF_MIN_S
        while True:
            try:
                async with asyncio.timeout(DIAL_TIMEOUT_S):
                    pipeline = await self._connect()
            except (Unavailable, OSError, ReplyError) as e:
                self._explain(str(e) or f"no answer within {DIAL_TIMEOUT_S:g} s")
            else:
                backoff_s = BACKOFF_MIN_S
                self._use(pipeline)
                await pipeline.closed.wait()
                self._explain(pipeline.refusal)
            self.first_attempt.set()
            if self._lost is not None:
                self._lost()
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)

    async def _connect(self) -> Pipeline:
        endpoint = await self._find()
        self.where = endpoint.where
        pipeline, identity = await self._greeting.connect(endpoint, replica=self._replica)
        try:
            self._recognize(identity)
        except Unavailable as e:
            pipeline.abort(str(e))
            raise
        return pipeline

    def _recognize(self, identity: Identity) -> None:
        self._changed |= self._identity not in (None, identity)
        self._identity = identity
        if identity.role == "slave" and not self._replica:
            raise Unavailable("is a replica; a redis:// URL must name the primary")

    def _use(self, pipeline: Pipeline) -> None:
        # The first time goes without saying: whoever made this store says that it serves, and whether it is up.
        level = logging.INFO if self.first_attempt.is_set() else logging.DEBUG
        event(log, "connected", level, server=self.where, connection=self._greeting.name)
        changed, self._changed = self._changed, False
        self.pipeline = pipeline
        self._explained = ""
        if self._connected is not None:
            self._connected(changed)
        self.first_attempt.set()

    def _explain(self, reason: str) -> None:
        """Once in the log for each new reason, not once for each attempt."""
        reason = reason.removeprefix(f"{self.where}: ")
        if reason != self._explained:
            event(
                log, "not connected", logging.WARNING, server=self.where, connection=self._greeting.name, reason=reason
            )
        self._explained = self.pipeline.refusal = reason
