"""Dead letters on Kafka, read again and replayed. kafka_dead.py writes them.

Rules. A record of `<prefix>.dead` is a letter if it begins with the five headers that zpush writes; key, value and the
other headers are the record's own. A replay publishes these to the topic where they were, by their key, and commits
what it has done after every batch: a process that dies between the two publishes a batch twice. The commits are those
of a group that nobody joins, `<prefix>.dead.replay`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from confluent_kafka import Message as KafkaRecord
from confluent_kafka import TopicPartition

from zpush._fast.taking import headers_in
from zpush.errors import MalformedMessage, ZpushError
from zpush.protocol.message import Priority
from zpush.queue import kafka_names, kafka_note
from zpush.queue.dead_letter import DeadLetter, stranger, time_of
from zpush.queue.kafka_config import client_config
from zpush.queue.kafka_record import message_of
from zpush.queue.kafka_replayed import Replayed
from zpush.queue.kafka_scan import Scan
from zpush.queue.kafka_sender import Sender

if TYPE_CHECKING:
    from zpush.queue.open import QueueSettings

NO_VALUE = "it has no value: the record had none, or was too large to be kept"
OWN = ("reason", "topic", "partition", "offset", "time")
_NAME = re.compile(r"(\d{1,5}):(\d{1,18})", re.ASCII)


class KafkaDeadLetters:
    def __init__(self, queue: QueueSettings, url: str) -> None:
        """ConfigError where the URL or a setting is wrong."""
        group = kafka_names.replay_group(queue.prefix)
        self._scan = Scan(kafka_names.dead(queue.prefix), url, queue.kafka, group)
        self._config = client_config(url, queue.kafka)
        self._sender: Sender | None = None
        self._sources = {p: kafka_names.subscription(queue.prefix, p, queue.kafka.mirrored) for p in Priority}
        self._replayed: dict[int, Replayed] = {}  # by partition
        self._ends: dict[int, int] = {}

    async def start(self) -> None:
        partitions = await self._scan.open()
        for each in await self._scan.committed(partitions):
            oldest, self._ends[each.partition] = await self._scan.bounds(each.partition)
            note = kafka_note.decode(each.metadata, each.offset)
            self._replayed[each.partition] = Replayed(note, each.offset, oldest)

    async def stop(self) -> None:
        if self._sender is not None:
            await self._sender.stop()
        await self._scan.close()

    async def count(self) -> int:
        return sum(replayed.left(self._ends[partition]) for partition, replayed in self._replayed.items())

    async def read(self) -> AsyncIterator[list[DeadLetter]]:
        starts = {partition: replayed.offset for partition, replayed in self._replayed.items()}
        self._ends = {partition: (await self._scan.bounds(partition))[1] for partition in self._replayed}
        met: set[int] = set()
        async for records in self._scan.read(starts, self._ends):
            left = [r for r in records if _place(r)[1] not in self._replayed[_place(r)[0]]]
            for record in left:
                partition, offset = _place(record)
                if partition not in met:
                    met.add(partition)
                    self._replayed[partition].begin_at(offset)
            if left:
                yield [self._letter(record) for record in left]

    async def find(self, name: str) -> DeadLetter | None:
        match = _NAME.fullmatch(name)
        if match is None:
            raise MalformedMessage(f"a dead letter is named like 0:17, not {name[:40]!r}")
        partition, offset = int(match[1]), int(match[2])
        replayed = self._replayed.get(partition)
        if replayed is None or offset in replayed or offset >= self._ends[partition]:
            return None
        async for records in self._scan.read({partition: offset}, {partition: offset + 1}):
            return self._letter(records[0])
        return None

    async def replay(self, letters: Sequence[DeadLetter]) -> list[Exception | None]:
        errors = await self._publish(letters)
        done = [letter for letter, error in zip(letters, errors, strict=True) if error is None]
        touched = set()
        for letter in done:
            partition, offset = _place(letter.content[0])
            self._replayed[partition].add(offset)
            touched.add(partition)
        if touched:
            await self._scan.commit([self._commit(partition) for partition in touched])
        return errors

    async def _publish(self, letters: Sequence[DeadLetter]) -> list[Exception | None]:
        if self._sender is None:
            self._sender = Sender("zpush-replay", self._config)
            await self._sender.start()
        loop = asyncio.get_running_loop()
        reports: list[asyncio.Future[Exception | None]] = [loop.create_future() for _ in letters]

        def settle(index: int, error: Exception | None) -> None:
            reports[index].set_result(error)

        for index, letter in enumerate(letters):
            record, headers = letter.content
            if letter.obstacle:
                settle(index, MalformedMessage(letter.obstacle))
                continue
            try:
                self._sender.send(letter.source, record.value(), record.key(), headers, settle, index)
            except ZpushError as e:
                settle(index, e)
        return await asyncio.gather(*reports)

    def _commit(self, partition: int) -> TopicPartition:
        replayed = self._replayed[partition]
        return TopicPartition(self._scan.topic, partition, replayed.offset, replayed.note())

    def _letter(self, record: KafkaRecord) -> DeadLetter:
        """Of any record that may lie there."""
        headers = headers_in(record) or []
        is_ours = tuple(name for name, _ in headers[: len(OWN)]) == OWN
        told = [_text(value) for _, value in headers[: len(OWN)]] if is_ours else [""] * len(OWN)
        reason, topic, partition, offset, time = told
        own = headers[len(OWN) :] if is_ours else headers
        priority = next((p for p, source in self._sources.items() if kafka_names.is_read(source, topic)), None)
        return DeadLetter(
            name="{}:{}".format(*_place(record)),
            reason=reason,
            source=topic,
            place=f"{partition}@{offset}" if is_ours else "",
            time_ms=time_of(time),
            priority=priority,
            key=record.key() or b"",
            id=dict(own).get("id") or b"",
            value=record.value() or b"",
            problem=_problem(record, own, priority or Priority.NORMAL),
            obstacle=stranger(topic) if priority is None else NO_VALUE if record.value() is None else "",
            content=(record, own),
        )


def _problem(record: KafkaRecord, headers: list[Any], priority: Priority) -> str:
    try:
        message_of(record, headers, priority, time.time_ns() // 1_000_000)
    except MalformedMessage as e:
        return e.reason
    return ""


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _place(record: KafkaRecord) -> tuple[int, int]:
    return record.partition() or 0, record.offset() or 0
