"""One priority on Kafka, on the loop: what waits here, which records are taken, finished, committed.

Rules. Records wait as they came and are judged when they are taken, so the work for a priority is done in that
priority's turn. Of a partition nothing is handed out that is not announced (kafka_partition.py): the buffer waits for
that as a whole, for the moment that a commit takes; a gap in the offsets is crossed in front of it. One commit is under
way at most; the next comes with the next tick, or at once where it is waited for. What is revoked leaves the buffer in
the same step. So offsets of a partition only rise, unless its topic was deleted and made anew, or brokers lost its end:
then it is begun anew, too.

A process that was stopped for long may have lost its partitions without knowing. After such a gap nothing is handed out
before a commit has proved whose they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import Message as KafkaRecord

from zpush._fast.record import Record
from zpush._fast.taking import Taker, finish_all
from zpush.errors import MalformedMessage
from zpush.log import event
from zpush.protocol.message import Message, Priority
from zpush.queue.kafka_dead import DeadLetters
from zpush.queue.kafka_link import Link
from zpush.queue.kafka_note import Note
from zpush.queue.kafka_partition import Commit, Key, Partition, Tenure
from zpush.queue.kafka_poller import Poller
from zpush.queue.kafka_record import USUAL, message_of

SUSPECT_S = 4.0  # no turn of the loop for so long, or for less where sessions are shorter: below
IDENTS = 1 << 20  # partitions of a topic, at most: Record.partition is unique across the topics of a priority
log = logging.getLogger("zpush.queue")


class Reader:
    """changed(): something may be ready, or the connection's state is another."""

    def __init__(
        self,
        priority: Priority,
        topic: str,
        subscription: str,
        dead_topic: str,
        config: Mapping[str, Any],
        ahead: int,
        hand_over_s: float,
        on_dead: Callable[[Priority, bool], None],
        on_revoked: Callable[[Priority, int], None],
        changed: Callable[[], None],
    ) -> None:
        """topic: this region's own; what else the subscription names are copies. hand_over_s: for what is under way.

        config: what client_config gives, with group.id and group.protocol.
        """
        self.taken = 0  # of what has arrived: judged or dropped
        self.taken_bytes = 0
        self.failure: Exception | None = None
        self._priority = priority
        self._topic = topic
        self._hand_over_s = hand_over_s
        self._on_dead = on_dead
        self._on_revoked = on_revoked
        self._changed = changed
        self._buffer: list[KafkaRecord] = []
        self._held: dict[Key, Partition] = {}
        self._by_ident: dict[int, Partition] = {}
        self._topics: dict[str, int] = {}  # numbered as they come
        self._committing: list[tuple[Partition, Commit]] = []
        self._finished_leaving = asyncio.Event()
        self._alive_s = time.monotonic()
        self._suspect_s = _suspect_s(config)
        self._stopping = False
        self._dead = DeadLetters(dead_topic, config)
        self._taker = Taker(self._held, USUAL, priority, topic, self._read, lambda: self._dead.full)
        self._poller = Poller(f"zpush-{priority.label}", subscription, config, ahead, self, changed)

    @property
    def link(self) -> Link:
        return self._poller.link

    @property
    def partitions(self) -> Collection[Partition]:
        """Those that are held."""
        return self._held.values()

    def start(self) -> None:
        self._poller.start()

    async def stop(self) -> None:
        """Gives its partitions up as they are, and leaves the group."""
        self._stopping = True
        await self._poller.stop()
        await self._dead.stop()

    def tick(self) -> None:
        """Twice a second."""
        self._check_clock()
        self._commit()
        self._dead.flush()

    # Records out

    @property
    def ready(self) -> bool:
        """take() would get on, if only with records that cannot be read."""
        if not self._buffer or self._stopping or self._dead.full:
            return False
        partition, offset = self._front()
        return partition.may_hand_out(offset)

    def take(self, limit: int) -> list[Record]:
        """In the order in which they came; of a partition that is the order of its offsets."""
        if not self._buffer:
            return []
        self._check_clock()
        if not self.ready:
            return []
        records: list[Record] = []
        count, count_bytes, low = self._taker.take(self._buffer, limit, time.time_ns() // 1_000_000, records)
        self.taken += count
        self.taken_bytes += count_bytes
        del self._buffer[:count]
        if self._buffer:
            partition, offset = self._front()
            if partition.is_behind(offset):
                self._begin_anew(partition, offset)
        self._dead.flush()
        self._poller.more_room()
        if low:
            self._commit()
        return records

    def _front(self) -> tuple[Partition, int]:
        """Where the next record of the buffer stands."""
        record = self._buffer[0]
        return self._held[_key(record)], record.offset() or 0

    def _read(
        self, raw: KafkaRecord, headers: list[Any] | None, partition: Partition, offset: int, now_ms: int
    ) -> Message | None:
        """Of a record that is not in the usual form. None where it is no message: then it is on its way to the dead."""
        try:
            return message_of(raw, headers, self._priority, now_ms)
        except MalformedMessage as e:
            redelivered = offset < partition.mark
            partition.hand_out(offset, raw)
            self._dead.bury(raw, headers or [], e.reason, partial(self._buried, partition, offset, raw, redelivered))
            return None

    def _buried(self, partition: Partition, offset: int, raw: KafkaRecord, redelivered: bool) -> None:
        self._on_dead(self._priority, redelivered)
        if partition.finish(offset, raw) and partition.leaving and not partition.outstanding:
            self._finished_leaving.set()

    # Finishing

    def finish(self, records: Sequence[Record]) -> None:
        if finish_all(self._by_ident, records):
            self._finished_leaving.set()

    def _commit(self) -> None:
        if self._committing:
            return
        self._cross_gap()
        for partition in self._held.values():
            if not partition.leaving and (commit := partition.commit()) is not None:
                self._committing.append((partition, commit))
        if self._committing:
            self._poller.commit([commit for _, commit in self._committing])

    def _cross_gap(self) -> None:
        """In front of the buffer, where it is wider than what is announced."""
        if not self._buffer:
            return
        partition, offset = self._front()
        if not partition.may_hand_out(offset) and (gap := partition.reach(offset)):
            self._poller.explain(partition.key, gap)

    def answered(self, is_done: bool) -> None:
        """To the commit: what it announced may be handed out, or it is tried again with the next tick."""
        committing, self._committing = self._committing, []
        if is_done:
            for partition, commit in committing:
                partition.committed(commit)
            self._changed()
            if any(partition.needs_announcement for partition in self._held.values()):
                self._commit()  # what was used up meanwhile: with the next tick it would be half a second late

    def _check_clock(self) -> None:
        now_s = time.monotonic()
        if now_s - self._alive_s > self._suspect_s:
            for partition in self._held.values():
                partition.suspend()
            self._commit()
        self._alive_s = now_s

    # What the poller brings

    def arrived(self, records: list[KafkaRecord]) -> None:
        self._buffer += records
        self._changed()

    def assigned(self, tenures: Sequence[Tenure]) -> None:
        for tenure in tenures:
            topic, number = tenure.key
            ident = self._topics.setdefault(topic, len(self._topics)) * IDENTS + number
            self._held[tenure.key] = self._by_ident[ident] = Partition(tenure, ident)
        self._report()
        self._commit()

    def _begin_anew(self, partition: Partition, offset: int) -> None:
        topic, number = partition.key
        event(log, "offsets went back", logging.WARNING, topic=topic, partition=number, offset=offset)
        self._forget([partition])
        self.assigned([Tenure(partition.key, offset, Note(offset), offset)])

    async def give_up(self, keys: Sequence[Key]) -> list[Commit]:
        leaving = [self._held[key] for key in keys if key in self._held]
        self._drop_buffered(keys)
        for partition in leaving:
            partition.leaving = True
        if not self._stopping:
            await self._settled(leaving)
        commits = [partition.last_commit() for partition in leaving]
        self._forget(leaving)
        return commits

    def lost(self, keys: Sequence[Key]) -> None:
        self._drop_buffered(keys)
        self._forget([self._held[key] for key in keys if key in self._held])

    def failed(self, error: Exception) -> None:
        self.failure = error
        self._changed()

    async def _settled(self, leaving: Sequence[Partition]) -> None:
        """Until nothing of these is under way, but not for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._hand_over_s):
                while any(partition.outstanding for partition in leaving):
                    self._finished_leaving.clear()
                    await self._finished_leaving.wait()

    def _drop_buffered(self, keys: Sequence[Key]) -> None:
        kept = [record for record in self._buffer if _key(record) not in keys]
        self.taken += len(self._buffer) - len(kept)
        self.taken_bytes += sum(map(len, self._buffer)) - sum(map(len, kept))
        self._buffer = kept

    def _forget(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            del self._held[partition.key], self._by_ident[partition.ident]
            if partition.outstanding:
                self._on_revoked(self._priority, partition.ident)
        self._report()

    def _report(self) -> None:
        event(log, "partitions held", priority=self._priority.label, held=len(self._held))


def _suspect_s(config: Mapping[str, Any]) -> float:
    """Half of a session that the user made short. By default, and where brokers set it (KIP-848), SUSPECT_S is less."""
    session_ms = config.get("session.timeout.ms")
    return SUSPECT_S if session_ms is None else min(SUSPECT_S, float(session_ms) / 2000)


def _key(record: KafkaRecord) -> Key:
    return record.topic() or "", record.partition() or 0
