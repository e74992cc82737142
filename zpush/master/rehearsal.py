"""Settings are tried out before they are used, by a child: it opens what they name, and asks Kafka for its topics.

Rules. The master itself loads no library that reads keys, no Kafka client, and runs no code of a user's (auth.mode =
"python:…"): a child does, and its verdict comes through a pipe. It has a time limit. One at a time. So a start that
cannot work is refused before anything is started, in one line, wherever the log goes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from zpush import log
from zpush.config import Settings, api_keys
from zpush.errors import ConfigError, QueueUnavailable, StartupError, ZpushError
from zpush.master.children import FAILED, REFUSED, Child, describe, fork
from zpush.master.reactor import Reactor, Timer

MAX_REASON_BYTES = 4096  # far below a pipe's buffer: the child never waits for us
TOPICS_S = 5.0

Check = Callable[[Settings], None]  # raises ZpushError
Verdict = ZpushError | None  # why the settings cannot be used

_logger = logging.getLogger("zpush.master")


def check_server(settings: Settings) -> None:
    """What `serve` needs at a start. In the child, as all of these."""
    check_files(settings)
    check_processors(settings)


def check_processors(settings: Settings) -> None:
    """What `process` needs at a start."""
    import asyncio

    from zpush.config.secrets import queue_url
    from zpush.queue.open import open_producer
    from zpush.registry.open import open_registry

    async def on_a_loop() -> None:
        open_registry(settings, "zpush-check")
        open_producer(settings.queue, queue_url(settings))

    if settings.processor.metrics_bind:
        api_keys(settings)
    asyncio.run(on_a_loop())
    check_topics(settings)


def check_files(settings: Settings) -> None:
    """What a worker reads, at a reload as well."""
    import asyncio

    from zpush.auth.open import open_authenticator

    async def on_a_loop() -> None:  # as in a worker: what opens a client there needs one
        open_authenticator(settings)

    api_keys(settings)
    asyncio.run(on_a_loop())


def check_topics(settings: Settings) -> None:
    """What must be in Kafka. A cluster that is away may have it, and stops no start."""
    from zpush.queue.open import open_topics

    topics = open_topics(settings.queue, settings.queue_url(), TOPICS_S)
    if topics is None:
        return
    try:
        missing = [topic.name for topic in topics.missing()]
    except QueueUnavailable as e:
        log.event(_logger, "topics are not checked", logging.WARNING, reason=str(e))
        return
    if missing:
        raise StartupError(
            f"Kafka has no {', '.join(missing)}: `zpush topics create` with the same options makes what is missing"
        )


class Rehearsal:
    """name: the child's, in the log. in_child: called first, to close what is the master's."""

    def __init__(self, name: str, check: Check, reactor: Reactor, in_child: Callable[[], None], within_s: float):
        self._name = name
        self._check = check
        self._reactor = reactor
        self._in_child = in_child
        self._within_s = within_s
        self._child: Child | None = None
        self._reading = -1
        self._timer: Timer | None = None
        self._is_late = False

    def begin(self, settings: Settings, done: Callable[[Verdict], None]) -> None:
        """done(verdict) is called later."""
        try:
            self._child = self._fork(settings)
        except OSError as e:  # no room for a process, or no descriptor
            self._close_pipe()
            verdict = StartupError(f"no process to check the settings in: {e.strerror}")
            self._timer = self._reactor.call_later(0.0, lambda: done(verdict))
            return
        self._is_late = False
        self._reactor.watch(self._child.pidfd, lambda: self._reap(done))
        self._timer = self._reactor.call_later(self._within_s, self._kill)

    def close_in_child(self) -> None:
        """What any child has inherited of this one."""
        if self._child is not None:
            self._child.close()
        self._close_pipe()

    def close(self) -> None:
        """At the master's end. Nobody is told a verdict any more."""
        self._kill()

    def _fork(self, settings: Settings) -> Child:
        self._reading, writing = os.pipe()
        try:
            return fork(lambda: self._become(settings, writing))
        finally:
            os.close(writing)

    def _become(self, settings: Settings, writing: int) -> int:
        """In the child."""
        log.set_process(self._name)
        self._in_child()
        try:
            self._check(settings)
        except ZpushError as e:
            os.write(writing, str(e).encode()[:MAX_REASON_BYTES])
            return REFUSED if isinstance(e, ConfigError) else FAILED
        return 0

    def _reap(self, done: Callable[[Verdict], None]) -> None:
        assert self._child is not None and self._timer is not None
        self._timer.cancel()
        self._reactor.unwatch(self._child.pidfd)
        code = self._child.reap()
        self._child = None
        os.set_blocking(self._reading, False)  # a process that the user's code started may hold the other end
        reason = self._read()
        self._close_pipe()
        done(self._verdict(code, reason))

    def _verdict(self, code: int, reason: str) -> Verdict:
        if code == 0:
            return None
        if reason:
            return ConfigError(reason) if code == REFUSED else StartupError(reason)
        if self._is_late:
            return StartupError(f"what the settings name was not read within {self._within_s:g} s")
        return StartupError(f"the check of the settings failed ({describe(code)}); the log tells why")

    def _read(self) -> str:
        try:
            return os.read(self._reading, MAX_REASON_BYTES).decode("utf-8", "replace")
        except BlockingIOError:
            return ""

    def _kill(self) -> None:
        self._is_late = True
        if self._child is not None:
            self._child.kill()

    def _close_pipe(self) -> None:
        if self._reading >= 0:
            os.close(self._reading)
            self._reading = -1
