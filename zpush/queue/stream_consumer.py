"""The consumer on Redis Streams: reads ahead, hands out, forgets. streams.py tells how it all fits together.

Rules. What is read ahead is bounded per priority in records and in bytes, and refilled in large steps. Per
stream there is at most one read and one finish under way, so both grow into batches by themselves under
load. Nothing here waits for the server except the rounds of tenure.py and the waker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from zpush._fast.record import Record
from zpush.errors import Unavailable
from zpush.log import event
from zpush.protocol.message import Priority
from zpush.queue import scripts
from zpush.queue.base import Lag
from zpush.queue.lag import LagReader
from zpush.queue.layout import Layout
from zpush.queue.partition import Dead, Partition
from zpush.queue.tenure import LEASE_TTL_S, Tenures
from zpush.queue.wake import Waker
from zpush.store import Future, Store

READ_ENTRIES = 250  # a script call; decoding them holds the loop for a millisecond
READ_BYTES = 1024 * 1024
AHEAD_BATCHES = 2  # read ahead per priority: one batch being routed, one ready
AHEAD_BYTES = 8 * 1024 * 1024
FINISH_ENTRIES = 1000  # a script call; Lua's unpack has room for 8000
DEAD_ENTRIES = 100_000  # about so many dead letters are kept, the newest
STOP_TIMEOUT_S = 2.0  # for the server's word on what was finished last
log = logging.getLogger("zpush.queue")


class StreamConsumer:
    """waiting: a store of its own, for blocking reads. Both stores are this object's to start and stop."""

    def __init__(
        self,
        store: Store,
        waiting: Store,
        layout: Layout,
        priorities: Sequence[Priority],
        batch: int,
        on_dead: Callable[[Priority, bool], None],
        lease_ttl_s: float = LEASE_TTL_S,
    ) -> None:
        """on_dead(priority, redelivered): a record went to the dead letters."""
        self._store = store
        self._waiting = waiting
        self._layout = layout
        self._ahead = AHEAD_BATCHES * batch
        self._on_dead = on_dead
        self._revoked: list[Callable[[Priority, int], None]] = []
        self._tenures = Tenures(store, layout, priorities, self, lease_ttl_s)
        self._waker = Waker(waiting, store, self._tenures.partitions, self._news)
        self._lag = LagReader(store, layout)
        self._read, self._finish = store.script(scripts.READ), store.script(scripts.FINISH)
        self._touched: set[Partition] = set()  # with finished records that are not sent yet
        self._turn = dict.fromkeys(priorities, 0)  # where the next take begins
        self._arrived = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: BaseException | None = None  # of one of these
        store.on_connect(self._connected)

    @property
    def up(self) -> bool:
        return self._store.up

    @property
    def reason(self) -> str:
        """Why it is not up; "" where it is."""
        return self._store.reason

    async def start(self) -> None:
        await asyncio.gather(self._store.start(), self._waiting.start())
        self._tasks = [
            asyncio.create_task(self._tenures.run(), name="queue tenures"),
            asyncio.create_task(self._waker.run(), name="queue waker"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """After what was finished is forgotten by the server, or 2 s; what is unfinished is redelivered."""
        self._tenures.stop()
        for partition in self._tenures.partitions():
            partition.leaving = True
        rounds, waker = self._tasks
        waker.cancel()
        await asyncio.wait([rounds, waker])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                while any(p.finished or p.finishing for p in self._tenures.partitions()):
                    self._arrived.clear()
                    await self._arrived.wait()
        await self._tenures.leave()
        await asyncio.gather(self._store.stop(), self._waiting.stop())

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A failure of ours is the caller's of wait(): without these tasks nothing would ever arrive."""
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self._arrived.set()

    def on_revoked(self, callback: Callable[[Priority, int], None]) -> None:
        self._revoked.append(callback)

    async def lag(self) -> dict[Priority, Lag]:
        return await self._lag.read()

    # Records out

    def take(self, priority: Priority, limit: int) -> list[Record]:
        """From all its streams in turn, each stream's in order."""
        held = list(self._tenures.held[priority].values())
        if not held or limit <= 0:
            return []
        now_s = time.monotonic()
        begin = self._turn[priority] % len(held)
        self._turn[priority] += 1
        records: list[Record] = []
        for partition in held[begin:] + held[:begin]:
            if partition.buffer:
                records += partition.take(limit - len(records), now_s)
                if len(records) >= limit:
                    break
        self._fill(priority)
        return records

    async def wait(self, priorities: Sequence[Priority] = tuple(Priority)) -> None:
        while not self._has_any(priorities):
            self._arrived.clear()
            await self._arrived.wait()
            if self._failure is not None:
                raise self._failure

    def _has_any(self, priorities: Iterable[Priority]) -> bool:
        now_s = time.monotonic()
        held = self._tenures.held
        return any(
            p.buffer and not p.leaving and now_s < p.valid_until_s
            for priority in priorities
            for p in held.get(priority, {}).values()
        )

    # Reading ahead

    def _fill(self, priority: Priority) -> None:
        """Half of it has to be free first: reads of a few entries cost as much as large ones."""
        held = self._tenures.held[priority].values()
        room = self._ahead - sum(len(p.buffer) + READ_ENTRIES * p.reading for p in held)
        if room < self._ahead // 2 or sum(p.buffered_bytes for p in held) >= AHEAD_BYTES or not self._store.up:
            return
        wanting = sorted((p for p in held if p.wants_read), key=lambda p: len(p.buffer))
        for left, partition in zip(range(len(wanting), 0, -1), wanting, strict=True):
            count = min(READ_ENTRIES, max(1, room // left))
            room -= count
            self._start_read(partition, count)
            if room <= 0:
                return

    def _start_read(self, partition: Partition, count: int) -> None:
        partition.reading = True
        reply = self._store.eval(self._read, partition.stream, partition.token, count, READ_BYTES, partition.after)
        reply.add_done_callback(partial(self._on_read, partition))

    def _on_read(self, partition: Partition, reply: Future) -> None:
        partition.reading = False
        error = reply.exception()
        if not self._tenures.current(partition):
            return
        if error is None and reply.result() is not None:
            more, entries = reply.result()
            partition.received(entries)
            partition.more = more == 1
            self._after_read(partition)
        elif error is None:
            self._tenures.drop(partition, "another reader holds it")
        elif not isinstance(error, Unavailable):  # somebody deleted the stream or its group: begin anew
            self._tenures.drop(partition, str(error))
        self._waker.read_ended(partition)

    def _after_read(self, partition: Partition) -> None:
        if partition.buffer:
            self._arrived.set()
        self._bury(partition)
        if partition.finished:
            self._touch(partition)
        self._tenures.release_if_settled(partition)
        self._fill(partition.priority)

    def _news(self, partitions: Sequence[Partition]) -> None:
        for priority in {p.priority for p in partitions}:
            self._fill(priority)

    # Forgetting

    def finish(self, records: Sequence[Record]) -> None:
        held = self._tenures.held
        by_stream: dict[tuple[Priority, int], list[Record]] = {}
        for record in records:
            by_stream.setdefault((record.priority, record.partition), []).append(record)
        for (priority, number), of_stream in by_stream.items():
            partition = held[priority].get(number)
            if partition is not None and partition.finish(of_stream):
                self._touch(partition)

    def _touch(self, partition: Partition) -> None:
        if not self._touched:
            asyncio.get_running_loop().call_soon(self._flush)
        self._touched.add(partition)

    def _flush(self) -> None:
        touched, self._touched = self._touched, set()
        for partition in touched:
            self._send_finished(partition)

    def _send_finished(self, partition: Partition) -> None:
        if partition.finishing or not partition.finished or not self._store.up:
            return
        partition.finishing = partition.finished[:FINISH_ENTRIES]
        del partition.finished[:FINISH_ENTRIES]
        reply = self._store.eval(self._finish, partition.stream, partition.token, *partition.finishing)
        reply.add_done_callback(partial(self._on_finished, partition))

    def _on_finished(self, partition: Partition, reply: Future) -> None:
        error = reply.exception()
        sent, partition.finishing = partition.finishing, []
        if not self._tenures.current(partition):
            return
        if error is None and reply.result() == 1:
            self._send_finished(partition)
            self._tenures.release_if_settled(partition)
        elif error is None:
            self._tenures.drop(partition, "another reader holds it")
        else:
            partition.finished[:0] = sent  # again at the next round
            if not isinstance(error, Unavailable):
                event(log, "cannot finish records", logging.WARNING, stream=partition.stream, reason=str(error))
        self._arrived.set()  # for stop()

    def _bury(self, partition: Partition) -> None:
        """To the dead letters first, forgotten after: a lost connection doubles a dead letter, it loses none."""
        if partition.burying or not partition.dead or not self._store.up:
            return
        partition.burying, partition.dead = partition.dead, []
        letters = [(self._layout.dead, self._letter(partition, dead)) for dead in partition.burying]
        self._store.call_many(letters).add_done_callback(partial(self._on_buried, partition))

    def _letter(self, partition: Partition, dead: Dead) -> tuple[str | bytes | int, ...]:
        """zpush's own four fields, then the entry's as they were."""
        own = ("reason", dead.reason, "stream", partition.stream, "entry", dead.position)
        command = ("XADD", self._layout.dead, "MAXLEN", "~", DEAD_ENTRIES, "*")
        return (*command, *own, "time", time.time_ns() // 1_000_000, *dead.fields)

    def _on_buried(self, partition: Partition, replies: Future) -> None:
        buried, partition.burying = partition.burying, []
        for dead, reply in zip(buried, replies.result(), strict=True):
            if isinstance(reply, Exception):
                event(log, "cannot write a dead letter", logging.WARNING, stream=partition.stream, reason=str(reply))
                partition.dead.append(dead)  # again at the next round
            else:
                partition.finished.append(dead.position)
                self._on_dead(partition.priority, dead.redelivered)
        if partition.finished and self._tenures.current(partition):
            self._touch(partition)

    # tenure.py calls

    def gained(self, partition: Partition) -> None:
        self._fill(partition.priority)

    def lost(self, partition: Partition) -> None:
        for callback in self._revoked:
            callback(partition.priority, partition.number)

    def renewed(self) -> None:
        """Each round: whatever an absence of the server has left lying is taken up again."""
        for partition in self._tenures.partitions():
            self._send_finished(partition)
            self._bury(partition)
        for priority in self._tenures.held:
            self._fill(priority)
        self._waker.look_again()
        self._arrived.set()

    def _connected(self, changed: bool) -> None:
        self.renewed()
