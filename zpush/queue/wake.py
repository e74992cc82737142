"""Waiting for news: one blocking XREAD over all streams that are read to their end, on a connection of its own.

Rules. It only wakes: what it returns is read again, under the lease. It watches no stream that is being
read (that would tell of what is on its way), and is ended early (CLIENT UNBLOCK) when a stream
that it does not watch comes to its end. BLOCK is short, so that any race costs at most that long once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from zpush.errors import Unavailable
from zpush.log import event
from zpush.queue.partition import Partition
from zpush.store import ReplyError, Store

log = logging.getLogger("zpush.queue")

BLOCK_MS = 500


class Waker:
    """partitions(): those held. news(partitions): there is something after `after` in these."""

    def __init__(
        self,
        waiting: Store,
        commands: Store,
        partitions: Callable[[], Sequence[Partition]],
        news: Callable[[Sequence[Partition]], None],
    ) -> None:
        self._waiting = waiting
        self._commands = commands
        self._partitions = partitions
        self._news = news
        self._watched: frozenset[str] = frozenset()  # empty: not blocked
        self._client_id = 0  # of the connection that blocks; 0: not known
        self._changed = asyncio.Event()
        waiting.on_connect(lambda changed: self.look_again())

    def read_ended(self, partition: Partition) -> None:
        """A read of this stream has been answered."""
        self._changed.set()
        if self._watched and self._client_id and partition.idle and partition.stream not in self._watched:
            self._watched = frozenset()
            self._commands.call_many([("", ("CLIENT", "UNBLOCK", self._client_id))])

    def look_again(self) -> None:
        """What is held may have changed, or who answers."""
        self._changed.set()

    async def run(self) -> None:
        while True:
            try:
                await self._wait_once()
            except Unavailable:
                self._client_id = 0
                await self._next_change()
            finally:
                self._watched = frozenset()

    async def _wait_once(self) -> None:
        if not self._client_id:
            self._client_id = await self._waiting.call("", "CLIENT", "ID")
        watched = [p for p in self._partitions() if p.idle]
        if not watched:
            await self._next_change()
            return
        self._watched = frozenset(p.stream for p in watched)
        streams: list[str | bytes] = [p.stream for p in watched]
        streams += (p.after for p in watched)
        try:
            reply = await self._waiting.call(streams[0], "XREAD", "COUNT", 1, "BLOCK", BLOCK_MS, "STREAMS", *streams)
        except Unavailable:
            raise  # the server's trouble, not a stream's
        except ReplyError as e:  # one stream is no stream any more: reading them all tells which, and loses it
            event(log, "cannot wait for messages", logging.WARNING, reason=str(e))
            await self._wake(watched)
            return
        self._watched = frozenset()
        if reply:
            await self._tell(watched, reply)

    async def _tell(self, watched: Sequence[Partition], reply: Sequence[Any]) -> None:
        first = {name.decode(): entries[0][0] for name, entries in reply}
        woken = [p for p in watched if p.stream in first and p.idle]
        for partition in woken:
            partition.seen = first[partition.stream]
        await self._wake(woken)

    async def _wake(self, woken: Sequence[Partition]) -> None:
        """Until they have been read, or what can be read now."""
        for partition in woken:
            partition.more = True
        self._news(woken)
        while any(p.reading for p in woken):
            await self._next_change()

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
