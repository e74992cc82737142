"""Presence events: who came and who went, for whoever reads `<prefix>.presence`.

Rules. What is said only stands in line here, so no handshake waits for it. One batch is under way at a time, and is
written again until the queue's server has it: events leave in the order in which they were said, each at least once, in
batches by themselves under load. Past the room the oldest goes, as the newer ones tell how things are now.
docs/presence.md tells readers what they may rely on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterable

from zpush.config import Settings
from zpush.config.secrets import queue_url
from zpush.errors import QueueUnavailable
from zpush.log import SparseLog, event
from zpush.queue.base import PresenceWriter
from zpush.queue.open import open_presence_writer
from zpush.queue.presence import CONNECTED, DISCONNECTED, EXPIRED, PresenceEvent
from zpush.registry.base import Lease
from zpush.scoreboard import Row
from zpush.tasks import Tasks

BATCH = 500  # about 2 ms of the server's time, in which it serves nobody else, and half a one of ours
AGAIN_S = 1.0
STOP_S = 5.0
EVENTS_PER_CLIENT = 2  # there is room for a worker whose clients all leave and come back while nothing can be written
_log = logging.getLogger("zpush.presence")


class Presence:
    """region: this process's. room: events that may wait. row: where they are counted."""

    def __init__(self, writer: PresenceWriter, region: str, room: int, row: Row) -> None:
        self._writer = writer
        self._region = region
        self._room = room
        self._row = row
        self._tasks = Tasks(_log)
        self._waiting: deque[PresenceEvent] = deque()
        self._under_way: list[PresenceEvent] = []
        self._more = asyncio.Event()
        self._all_written = asyncio.Event()
        self._all_written.set()
        self._sparse = SparseLog(_log)

    def start(self) -> None:
        """Nobody waits for the queue's server: what is said before it is there stands in line."""
        self._tasks.spawn(self._run())

    async def stop(self) -> None:
        """Waits 5 s for what is not written yet; what is left then is lost."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._all_written.wait()
        await self._tasks.cancel()
        left = [*self._under_way, *self._waiting]
        if left:
            self._count(left, "lost")
            event(_log, "presence events are lost", logging.WARNING, events=len(left), reason="the process has ended")
        await self._writer.stop()

    def connected(self, lease: Lease) -> None:
        """The lease is written, and its connection is open."""
        self._say(CONNECTED, lease)

    def disconnected(self, lease: Lease, code: int) -> None:
        self._say(DISCONNECTED, lease, code)

    def expired(self, lease: Lease) -> None:
        """Its node is dead."""
        self._say(EXPIRED, lease)

    def _say(self, what: str, lease: Lease, code: int = 0) -> None:
        if len(self._waiting) >= self._room:
            self._count([self._waiting.popleft()], "lost")
            self._sparse.warning("presence events are lost", reason=f"{self._room} wait already")
        now_ms = time.time_ns() // 1_000_000
        self._waiting.append(
            PresenceEvent(what, lease.client_id, lease.node_id, self._region, lease.epoch, now_ms, lease.user_id, code)
        )
        self._more.set()
        self._all_written.clear()

    async def _run(self) -> None:
        await self._writer.start()
        while True:
            await self._more.wait()
            self._under_way = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH))]
            await self._write()
            if not self._waiting:
                self._more.clear()
                self._all_written.set()

    async def _write(self) -> None:
        while self._under_way:
            try:
                await self._writer.write(self._under_way)
            except QueueUnavailable as e:
                waiting = len(self._under_way) + len(self._waiting)
                self._sparse.warning("presence events wait", events=waiting, reason=str(e))
                await asyncio.sleep(AGAIN_S)
            else:
                self._count(self._under_way, "written")
                self._under_way = []

    def _count(self, events: Iterable[PresenceEvent], result: str) -> None:
        for each in events:
            self._row.add(f"presence_{each.event}_{result}")


def open_presence(settings: Settings, row: Row) -> Presence | None:
    """Not started yet; None where it is off."""
    if not settings.queue.presence:
        return None
    writer = open_presence_writer(settings.queue, queue_url(settings))
    return Presence(writer, settings.peers.region, EVENTS_PER_CLIENT * settings.connections.max, row)
