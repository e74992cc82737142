"""A broker for the benchmarks, and a bare sender and a bare reader to compare with."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from zpush.config.settings import Queue
from zpush.protocol.message import Priority
from zpush.queue import kafka_names, kafka_poller, kafka_sender

PARTITIONS = 8
PAYLOAD_BYTES = 200
HEADERS: list[tuple[str, str | bytes | None]] = [("id", b"0123456789abcdef01234567"), ("type", b"text")]
NAME_BYTES = 20  # as load.c names its clients


@dataclass(frozen=True, slots=True)
class Kafka:
    """prefix: of topics that exist and are empty."""

    bootstrap: str
    prefix: str
    pid: int

    @property
    def url(self) -> str:
        return f"kafka://{self.bootstrap}"

    @property
    def queue(self) -> Queue:
        return Queue(url=self.url, prefix=self.prefix)

    @property
    def settings(self) -> tuple[str, str]:
        return f"queue.url={self.url}", f"queue.prefix={self.prefix}"

    def topic(self, priority: Priority) -> str:
        return kafka_names.topic(self.prefix, priority)


@contextmanager
def kafka() -> Iterator[Kafka]:
    """A broker of its own. RuntimeError where there is no Java."""
    from tests.kafka.broker import Broker

    broker = Broker(heap_mib=512)
    try:
        broker.start()
        prefix = f"bench-{uuid.uuid4().hex[:8]}"
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        names = [kafka_names.topic(prefix, priority) for priority in Priority] + [kafka_names.dead(prefix)]
        for made in admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names]).values():
            made.result(30)
        yield Kafka(broker.bootstrap, prefix, broker.pid)
    finally:
        broker.stop()


def payloads(count: int = 10_000) -> list[bytes]:
    """Text that compresses as JSON with ids and numbers in it does, by half or so; always the same."""
    numbers = random.Random(1)
    return [f"{numbers.getrandbits(4 * PAYLOAD_BYTES):0{PAYLOAD_BYTES}x}".encode() for _ in range(count)]


def keys(prefix: str, clients: int) -> list[bytes]:
    return [f"{prefix}{n:0{NAME_BYTES - len(prefix)}}".encode() for n in range(clients)]


def bare_producer(it: Kafka, pending: int = kafka_sender.PENDING_MESSAGES) -> Producer:
    """With the push library's own settings."""
    config: dict[str, Any] = {**kafka_sender.DEFAULTS, **kafka_sender.MUSTS, "bootstrap.servers": it.bootstrap}
    return Producer({**config, "queue.buffering.max.messages": pending})


def fill(it: Kafka, priority: Priority, count: int, prefix: str, clients: int) -> None:
    """`count` messages, to each client in turn."""
    producer, names, topic, texts = bare_producer(it), keys(prefix, clients), it.topic(priority), payloads()
    for n in range(count):
        while True:
            try:
                producer.produce(topic, texts[n % len(texts)], names[n % clients], headers=HEADERS)
                break
            except BufferError:
                producer.poll(0.05)
    if producer.flush(120):
        raise RuntimeError("Kafka did not take the backlog within two minutes")


def read_all(it: Kafka, priority: Priority, count: int, began: Callable[[], None]) -> None:
    """A bare consumer's loop, with zpush's own fetch settings. began() is called at the first record."""
    consumer = Consumer(
        {
            **kafka_poller.DEFAULTS,
            "bootstrap.servers": it.bootstrap,
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([it.topic(priority)])
    seen = 0
    while seen < count:
        records = consumer.consume(500, 0.1)
        if records and not seen:
            began()
        for record in records:
            record.key(), record.value(), record.headers()
        seen += len(records)
    consumer.close()
