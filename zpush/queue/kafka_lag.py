"""How far behind the queue is, with or without a consumer: from log ends, committed offsets and the notes beside them.

Rules. A partition's backlog is what lies between its committed offset and its end, less what the note tells as
finished. Where nothing was ever committed, or what lies beyond the end, it begins with the oldest record that is still
there, as a reader would; what retention deleted is no backlog. The age is the oldest unfinished record's own: it is
read, one record a partition, and remembered. A stretch that holds no record at all (the marks of transactions) is no
backlog either.

All calls block, so they are made in a thread; one reading at a time.
"""

from __future__ import annotations

import asyncio
import re
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from zpush.errors import QueueUnavailable
from zpush.protocol.message import Priority
from zpush.queue import kafka_names, kafka_note
from zpush.queue.base import Lag
from zpush.queue.kafka_config import client_config, opened
from zpush.queue.kafka_link import NOT_YET
from zpush.queue.kafka_partition import Key

if TYPE_CHECKING:
    from zpush.queue.open import QueueSettings

TIMEOUT_S = 5.0  # of each question
OLDEST_S = (
    1.0  # to read the oldest records, of the two that /metrics waits; who is late counts without an age, this time
)
POLL_S = 0.05
RETRY_S = 0.1
# One record of each partition is wanted, or that there is none; no more is fetched than a broker sends at once.
ONE_RECORD = {
    "queued.min.messages": 1,
    "fetch.message.max.bytes": 16_384,
    "fetch.wait.max.ms": 50,
    "fetch.queue.backoff.ms": 10,  # by default each record would wait a second behind the one before it
    "auto.offset.reset": "earliest",
    "enable.partition.eof": True,
}


class _Backlog(msgspec.Struct):
    """Of one partition; offset: where the oldest unfinished record is, or would be."""

    key: Key
    offset: int
    messages: int


class LagReader:
    """Nothing is connected before the first reading."""

    def __init__(self, queue: QueueSettings, url: str) -> None:
        """ConfigError where the URL or a setting is wrong."""
        self._config = client_config(url, queue.kafka)
        self._group = queue.kafka.group
        self._wanted = {p: kafka_names.subscription(queue.prefix, p, queue.kafka.mirrored) for p in Priority}
        self._oldest: dict[Key, tuple[int, int]] = {}  # offset, and its record's time in Unix ms
        self._thread = ThreadPoolExecutor(1, "zpush-lag")  # so that one reading follows the other
        self._admin: AdminClient | None = None
        self._consumer: Consumer | None = None

    async def read(self) -> dict[Priority, Lag]:
        """Every priority; QueueUnavailable where Kafka is away."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
        self._admin = self._consumer = None

    def _read(self) -> dict[Priority, Lag]:
        if self._admin is None:
            self._admin = opened(AdminClient, self._config)
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            try:
                return self._look(self._admin)
            except KafkaException as e:
                if e.args[0].code() not in NOT_YET or time.monotonic() > deadline_s:
                    raise QueueUnavailable(f"Kafka does not answer: {e.args[0].str()}") from None
                time.sleep(RETRY_S)

    def _look(self, admin: AdminClient) -> dict[Priority, Lag]:
        backlogs = self._backlogs(admin)
        self._look_at_oldest([b for of_priority in backlogs.values() for b in of_priority if b.messages])
        now_ms = time.time_ns() // 1_000_000
        return {priority: self._lag(backlogs[priority], now_ms) for priority in Priority}

    def _lag(self, backlogs: list[_Backlog], now_ms: int) -> Lag:
        times = [self._oldest[b.key][1] for b in backlogs if b.messages and b.key in self._oldest]
        return Lag(sum(b.messages for b in backlogs), max([0, *(now_ms - ms for ms in times)]) / 1000)

    def _backlogs(self, admin: AdminClient) -> dict[Priority, list[_Backlog]]:
        keys = self._partitions(admin)
        every = [TopicPartition(*key) for of_priority in keys.values() for key in of_priority]
        if not every:
            return {priority: [] for priority in Priority}
        committed = {priority: self._committed(admin, priority, keys[priority]) for priority in Priority}
        # After these: what is written and committed meanwhile would lie beyond an end that is older.
        firsts, ends = (self._offsets(admin, every, which) for which in (_EARLIEST, _LATEST))
        return {
            priority: [
                _backlog(each, firsts[key], ends[key])
                for each in committed[priority]
                if (key := (each.topic, each.partition)) in firsts and key in ends
            ]
            for priority in Priority
        }

    def _partitions(self, admin: AdminClient) -> dict[Priority, list[Key]]:
        topics = admin.list_topics(timeout=TIMEOUT_S).topics
        matches = {p: re.compile(w).match if w.startswith("^") else w.__eq__ for p, w in self._wanted.items()}
        return {p: [(t, number) for t in topics if matches[p](t) for number in topics[t].partitions] for p in Priority}

    def _offsets(self, admin: AdminClient, partitions: list[TopicPartition], which: OffsetSpec) -> dict[Key, int]:
        """Without those that have no leader now, or are gone."""
        answers = admin.list_offsets(dict.fromkeys(partitions, which), request_timeout=TIMEOUT_S)
        found = {}
        for partition, answer in answers.items():
            try:
                found[partition.topic, partition.partition] = _result(answer).offset
            except KafkaException as e:
                if e.args[0].code() not in _NOT_NOW:
                    raise
        return found

    def _committed(self, admin: AdminClient, priority: Priority, keys: list[Key]) -> list[TopicPartition]:
        if not keys:
            return []
        group = kafka_names.group(self._group, priority)
        asked = ConsumerGroupTopicPartitions(group, [TopicPartition(*key) for key in keys])
        [answer] = admin.list_consumer_group_offsets([asked], request_timeout=TIMEOUT_S).values()
        return list(_result(answer).topic_partitions)

    def _look_at_oldest(self, behind: list[_Backlog]) -> None:
        """Reads the oldest unfinished record of each where it is another than the last time."""
        self._oldest = {b.key: self._oldest[b.key] for b in behind if self._oldest.get(b.key, (-1, 0))[0] == b.offset}
        unknown = {b.key: b for b in behind if b.key not in self._oldest}
        if not unknown:
            return
        if self._consumer is None:
            never_used = {"group.id": self._group, "enable.auto.commit": False}
            self._consumer = opened(Consumer, {**self._config, **ONE_RECORD, **never_used})
        consumer = self._consumer
        consumer.assign([TopicPartition(*b.key, b.offset) for b in unknown.values()])
        deadline_s = time.monotonic() + OLDEST_S
        try:
            while unknown and time.monotonic() < deadline_s:
                record = consumer.poll(POLL_S)
                if record is None:
                    continue
                key, error = (record.topic() or "", record.partition() or 0), record.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                if key not in unknown:
                    continue
                backlog = unknown.pop(key)
                if error is None:
                    self._oldest[key] = backlog.offset, record.timestamp()[1]
                else:
                    backlog.messages = 0
        finally:
            consumer.unassign()


_EARLIEST, _LATEST = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]
_NOT_NOW = frozenset(
    (
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
    )
)


def _backlog(committed: TopicPartition, first: int, end: int) -> _Backlog:
    """Where a reader would begin that was assigned it now, and what it would find."""
    offset, note = kafka_note.resume(committed.offset, committed.metadata, first, end)
    unread = max(0, end - offset - note.finished_in(offset, end))
    return _Backlog((committed.topic, committed.partition), offset, unread)


def _result(answer: Future[Any]) -> Any:
    return answer.result(TIMEOUT_S * 2)
