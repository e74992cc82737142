"""The queue on Kafka as the contract's tests see it, and a look at what lies in its topics."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.queue.backends import LEASE_TTL_S, SURE_S, Base
from tests.support import eventually
from zpush.config.settings import Kafka as KafkaSettings
from zpush.config.settings import Queue
from zpush.protocol.message import Priority
from zpush.queue import kafka_names
from zpush.queue.kafka_consumer import KafkaConsumer
from zpush.queue.kafka_producer import KafkaProducer
from zpush.queue.kafka_topics import Topics

# A killed reader is missed after this. A broker that is not ours takes no less than its group.min.session.timeout.ms.
SESSION_S = 6.0 if os.environ.get("ZPUSH_TEST_KAFKA") else 1.2
HAND_OVERS_PER_TTL = 3  # as with Streams
TIMEOUT_S = 60.0


class Server(Protocol):
    """A tests.kafka.broker.Broker, or the session's."""

    @property
    def bootstrap(self) -> str: ...

    @property
    def url(self) -> str: ...


class Layout:
    """Which partition a key belongs to: Java's own formula, murmur2 of the key."""

    def __init__(self, prefix: str, partitions: int) -> None:
        self.prefix = prefix
        self.partitions = partitions

    def partition_of(self, key: str) -> int:
        return (murmur2(key.encode()) & 0x7FFFFFFF) % self.partitions

    def stream(self, priority: Priority, partition: int) -> str:
        """As a dead letter of KafkaBackend.dead names it."""
        return f"{kafka_names.topic(self.prefix, priority)}/{partition}"


class KafkaBackend(Base):
    """Kafka on a real broker; its topics are made here."""

    name = "kafka"

    def __init__(self, server: Any, prefix: str, partitions: int = 4, protocol: str = "classic") -> None:
        super().__init__()
        self.server = server
        self.layout = Layout(prefix, partitions)
        self._protocol = protocol
        Topics(self.queue(), server.url, TIMEOUT_S).create(Topics(self.queue(), server.url, TIMEOUT_S).missing())

    def queue(self, *, mirrored: bool = False, **client: str) -> Queue:
        """[queue], as it would be read from a file. client: settings of librdkafka, with _ for each dot."""
        given = {name.replace("_", "."): value for name, value in client.items()}
        if self._protocol == "classic":
            given = {"session.timeout.ms": f"{SESSION_S * 1000:.0f}", "heartbeat.interval.ms": "200", **given}
        group = f"{self.layout.prefix}.local"
        kafka = KafkaSettings(group=group, protocol=self._protocol, mirrored=mirrored, client=given)
        return Queue(prefix=self.layout.prefix, partitions=self.layout.partitions, kafka=kafka)

    async def producer(self, max_messages: int = 100_000 * 4, **client: str) -> KafkaProducer:
        """max_messages: of all partitions. Kafka itself has no such bound; a producer has one for what is under way."""
        bound = str(max_messages // self.layout.partitions)
        producer = KafkaProducer(self.queue(queue_buffering_max_messages=bound, **client), self.server.url)
        self._opened.append(producer)
        await producer.start()
        return producer

    async def consumer(
        self,
        priorities: Sequence[Priority] = tuple(Priority),
        batch: int = 500,
        lease_ttl_s: float = LEASE_TTL_S,
        *,
        sure: bool = False,
        **queue: Any,
    ) -> KafkaConsumer:
        if sure:
            lease_ttl_s = SURE_S
            if self._protocol == "classic":
                queue["session_timeout_ms"] = f"{SURE_S * 1000:.0f}"
        hand_over_s = lease_ttl_s / HAND_OVERS_PER_TTL
        settings = self.queue(**queue)
        consumer = KafkaConsumer(settings, self.server.url, priorities, batch, self._on_dead, hand_over_s)
        self._opened.append(consumer)
        await consumer.start()
        return consumer

    async def abandon(self, consumer: KafkaConsumer) -> None:
        """As a killed process: no commit, no word to the group, no heartbeat."""
        self._opened.remove(consumer)
        assert consumer._ticking is not None
        consumer._ticking.cancel()
        for reader in consumer._readers.values():
            poller = reader._poller
            poller._commits.append(None)  # type: ignore[arg-type] # its thread stumbles over it and ends
            await eventually(lambda reader=reader: reader.failure is not None, "the thread ends")
            await asyncio.to_thread(poller._thread.join)
            assert reader.failure is not None
            reader.failure.__traceback__ = None
            del poller._consumer  # a handle that nobody refers to ends without leaving its group

    async def inject(self, priority: Priority, partition: int, fields: Mapping[str, bytes]) -> str:
        headers: list[tuple[str, str | bytes | None]] = [
            (name, value) for name, value in fields.items() if name not in ("key", "payload")
        ]
        return await self.produce(priority, partition, fields.get("payload"), fields.get("key"), headers)

    async def produce(self, priority: Priority, partition: int, *record: Any) -> str:
        """record: value, key, headers. Its offset."""
        return await self.produce_to(kafka_names.topic(self.layout.prefix, priority), partition, *record)

    async def produce_many(self, priority: Priority, partition: int, records: Sequence[Any]) -> None:
        await self.produce_all(kafka_names.topic(self.layout.prefix, priority), partition, records)

    async def produce_to(self, topic: str, partition: int, *record: Any) -> str:
        [offset] = await self.produce_all(topic, partition, [record])
        return str(offset)

    async def produce_all(self, topic: str, partition: int, records: Sequence[Any]) -> list[int]:
        """As somebody else's producer. Their offsets."""
        offsets: list[int] = []

        def written(error: Any, record: Any) -> None:
            assert error is None, error
            offsets.append(record.offset())

        producer = Producer({"bootstrap.servers": self.server.bootstrap, "message.max.bytes": 100_000_000})
        for value, key, headers in records:
            producer.produce(topic, value, key, partition, headers=headers, on_delivery=written)
        await asyncio.to_thread(producer.flush, TIMEOUT_S)
        assert len(offsets) == len(records)
        return offsets

    async def write(self, name: str, *records: Sequence[tuple[str, bytes]]) -> None:
        """Each into the partition that belongs to its key."""
        by_partition: dict[int, list[Any]] = {}
        for fields in records:
            parts = dict(fields)
            headers = [each for each in fields if each[0] not in ("key", "payload")]
            partition = 0 if name == "dead" else self.layout.partition_of(parts["key"].decode())
            by_partition.setdefault(partition, []).append((parts.get("payload"), parts.get("key"), headers))
        for partition, of_partition in by_partition.items():
            await self.produce_all(f"{self.layout.prefix}.{name}", partition, of_partition)

    async def produce_at(self, priority: Priority, partition: int, timestamp_ms: int) -> None:
        """A record of that time."""
        producer = Producer({"bootstrap.servers": self.server.bootstrap})
        where = kafka_names.topic(self.layout.prefix, priority)
        producer.produce(where, b"x", b"c1", partition, timestamp=timestamp_ms)
        assert await asyncio.to_thread(producer.flush, TIMEOUT_S) == 0

    def delete_before(self, offset: int, name: str, partition: int) -> None:
        """As retention does."""
        place = TopicPartition(f"{self.layout.prefix}.{name}", partition, offset)
        admin = AdminClient({"bootstrap.servers": self.server.bootstrap})
        admin.delete_records([place])[place].result(TIMEOUT_S)

    def topics(self) -> set[str]:
        return set(AdminClient({"bootstrap.servers": self.server.bootstrap}).list_topics(timeout=TIMEOUT_S).topics)

    async def dead(self) -> list[dict[str, str]]:
        letters = await asyncio.to_thread(read_all, self.server.bootstrap, kafka_names.dead(self.layout.prefix))
        return [self._letter(letter) for letter in letters]

    def _letter(self, record: Any) -> dict[str, str]:
        """In the words of a stream's: stream, entry."""
        headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers()}
        parts = {"key": record.key(), "payload": record.value()}
        own = {name: part.decode(errors="replace") for name, part in parts.items() if part is not None}
        where = {"stream": f"{headers['topic']}/{headers['partition']}", "entry": headers["offset"]}
        return {**headers, **own, **where}

    def partitions_of(self, consumer: KafkaConsumer, priority: Priority = Priority.NORMAL) -> set[int]:
        return {partition.ident for partition in consumer._readers[priority].partitions}

    def partitions_ahead(self, consumer: KafkaConsumer) -> int:
        return sum(len({(r.topic(), r.partition()) for r in reader._buffer}) for reader in consumer._readers.values())

    def gives_up(self, consumer: KafkaConsumer) -> bool:
        return any(partition.leaving for reader in consumer._readers.values() for partition in reader.partitions)


def read_all(bootstrap: str, topic: str) -> list[Any]:
    """Every record of a topic, in order per partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reads-all", "enable.partition.eof": True})
    try:
        partitions = consumer.list_topics(topic, TIMEOUT_S).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        records, ended = [], 0
        deadline = time.monotonic() + TIMEOUT_S
        while ended < len(partitions):
            assert time.monotonic() < deadline, f"{topic} has no end"
            record = consumer.poll(0.1)
            if record is not None and record.error():
                ended += 1
            elif record is not None:
                records.append(record)
        return records
    finally:
        consumer.close()


def murmur2(data: bytes) -> int:
    """As in org.apache.kafka.common.utils.Utils, without its sign."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ len(data)) & mask
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15
