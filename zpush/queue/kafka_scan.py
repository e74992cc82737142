"""A topic read by offset, for the command line: no group is joined, and its end is known beforehand.

Rules. Every call blocks, so all are made in one thread, one after the other. What is fetched ahead and what is handed
on at once is bounded in bytes. A cluster that does not answer is QueueUnavailable, with what librdkafka said last.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaRecord

from zpush.errors import QueueUnavailable
from zpush.queue.kafka_config import KafkaSettings, brokers, client_config, opened
from zpush.queue.kafka_link import NOT_YET

BATCH = 500
BATCH_BYTES = 8 << 20
TIMEOUT_S = 5.0  # of each question
STALL_S = 10.0  # without a record, while the end is not reached
POLL_S = 0.2
RETRY_S = 0.1
_T = TypeVar("_T")
Offsets = Mapping[int, int]  # by partition

DEFAULTS: Mapping[str, Any] = {
    "queued.max.messages.kbytes": 16 << 10,
    "fetch.queue.backoff.ms": 20,
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 1_000,
}
MUSTS: Mapping[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",  # where retention was faster
    "enable.partition.eof": True,
}


class Scan:
    """One topic. Nothing is connected before open()."""

    def __init__(self, topic: str, url: str, kafka: KafkaSettings, group: str) -> None:
        """group: whose offsets committed() and commit() mean. ConfigError where the URL or a setting is wrong."""
        self.topic = topic
        self._where = ", ".join(brokers(url))
        self._why = ""  # librdkafka's last word on a connection
        callbacks = {"error_cb": self._on_error}
        self._config = {**DEFAULTS, **client_config(url, kafka), **MUSTS, **callbacks, "group.id": group}
        self._thread = ThreadPoolExecutor(1, "zpush-scan")
        self._consumer: Consumer | None = None

    async def open(self) -> list[int]:
        """Its partitions. QueueUnavailable, also where it is missing."""
        return await self._in_thread(self._open)

    async def close(self) -> None:
        if self._consumer is not None:
            await self._in_thread(self._consumer.close)
        self._thread.shutdown(wait=False)

    async def bounds(self, partition: int) -> tuple[int, int]:
        """Offsets of the oldest record, and of the next that will be written."""
        consumer = self._opened
        return await self._in_thread(
            lambda: consumer.get_watermark_offsets(TopicPartition(self.topic, partition), TIMEOUT_S)
        )

    async def at(self, partition: int, time_ms: int) -> int:
        """Offset of the first record that is not older; its end where there is none."""
        consumer = self._opened
        [found] = await self._in_thread(
            lambda: consumer.offsets_for_times([TopicPartition(self.topic, partition, time_ms)], TIMEOUT_S)
        )
        return found.offset if found.offset >= 0 else (await self.bounds(partition))[1]

    async def committed(self, partitions: Sequence[int]) -> list[TopicPartition]:
        consumer = self._opened
        asked = [TopicPartition(self.topic, partition) for partition in partitions]
        found: list[TopicPartition] = await self._in_thread(lambda: consumer.committed(asked, TIMEOUT_S))
        for each in found:
            if each.error is not None:
                raise self._unavailable(each.error)
        return found

    async def commit(self, offsets: Sequence[TopicPartition]) -> None:
        consumer = self._opened
        await self._in_thread(lambda: consumer.commit(offsets=list(offsets), asynchronous=False))

    async def read(self, starts: Offsets, ends: Offsets) -> AsyncIterator[list[KafkaRecord]]:
        """The records from `starts` on and before `ends`, in order per partition."""
        unfinished = {partition for partition in starts if starts[partition] < ends[partition]}
        await self._in_thread(lambda: self._assign({partition: starts[partition] for partition in unfinished}))
        deadline_s = time.monotonic() + STALL_S
        while unfinished:
            found = await self._in_thread(self._poll)
            if found:
                deadline_s = time.monotonic() + STALL_S
            elif time.monotonic() > deadline_s:
                raise QueueUnavailable(f"Kafka at {self._where}: {self._why or 'no answer'}")
            records = [record for record in found if not record.error() and _offset(record) < ends[_partition(record)]]
            unfinished -= {_partition(r) for r in found if r.error() or _offset(r) + 1 >= ends[_partition(r)]}
            if records:
                yield records

    async def follow(self, starts: Offsets) -> AsyncIterator[list[KafkaRecord]]:
        """The records from `starts` on, and those to come."""
        await self._in_thread(lambda: self._assign(starts))
        while True:
            records = [record for record in await self._in_thread(self._poll) if not record.error()]
            if records:
                yield records

    @property
    def _opened(self) -> Consumer:
        assert self._consumer is not None, "open() comes first"
        return self._consumer

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._thread, call)
            except KafkaException as e:
                if e.args[0].code() not in NOT_YET or time.monotonic() > deadline_s:
                    raise self._unavailable(e.args[0]) from None
                await asyncio.sleep(RETRY_S)

    def _unavailable(self, error: KafkaError) -> QueueUnavailable:
        if error.code() in _MISSING:
            return QueueUnavailable(f"the topic {self.topic} is missing: `zpush topics create` makes it")
        is_local = error.code() < 0  # librdkafka's own: it got no answer
        return QueueUnavailable(f"Kafka at {self._where}: {(is_local and self._why) or error.str()}")

    def _on_error(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self._why:
            self._why = error.str()

    # In the thread

    def _open(self) -> list[int]:
        self._consumer = opened(Consumer, self._config)
        try:
            found = self._consumer.list_topics(self.topic, TIMEOUT_S).topics[self.topic]
        except KafkaException:
            self._consumer.poll(0)  # hands over what was said of the connections
            raise
        if found.error is not None:
            raise KafkaException(found.error)
        return sorted(found.partitions)

    def _assign(self, starts: Offsets) -> None:
        self._opened.assign([TopicPartition(self.topic, partition, offset) for partition, offset in starts.items()])

    def _poll(self) -> list[KafkaRecord]:
        """Records, and ends of partitions as records with an error; [] where nothing came for POLL_S."""
        found: list[KafkaRecord] = []
        size = 0
        while len(found) < BATCH and size < BATCH_BYTES:
            record = self._opened.poll(0 if found else POLL_S)
            if record is None:
                break
            error = record.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                if error.fatal() or error.code() in _HOPELESS:
                    raise KafkaException(error)
                continue  # it goes on by itself
            found.append(record)
            size += len(record)
        return found


_MISSING = frozenset((KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART))
# Not the lack of a right to the group: librdkafka asks for it unbidden, and who only reads needs none.
_HOPELESS = _MISSING | {KafkaError.TOPIC_AUTHORIZATION_FAILED}


def _partition(record: KafkaRecord) -> int:
    return record.partition() or 0


def _offset(record: KafkaRecord) -> int:
    return record.offset() or 0
