"""The back end that a queue URL names. Both are imported only where they are asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from zpush.config.settings import REDIS_SCHEMES
from zpush.errors import ConfigError
from zpush.protocol.message import Priority
from zpush.queue.base import Consumer, DeadLetters, PresenceWriter, Producer, ReceiptReader, ReceiptWriter

if TYPE_CHECKING:
    from zpush.queue import kafka_topics
    from zpush.queue.kafka_config import KafkaSettings

KAFKA = "kafka"


class QueueSettings(Protocol):
    """What is read of [queue]."""

    @property
    def prefix(self) -> str: ...

    @property
    def partitions(self) -> int: ...

    @property
    def max_messages(self) -> int: ...

    @property
    def kafka(self) -> KafkaSettings: ...


class ReceiptSettings(QueueSettings, Protocol):
    """What is read of [queue] for receipts."""

    @property
    def max_receipts(self) -> int: ...


class PresenceSettings(QueueSettings, Protocol):
    """What is read of [queue] for presence events."""

    @property
    def max_presence(self) -> int: ...


def open_producer(queue: QueueSettings, url: str) -> Producer:
    """Not started yet. ConfigError where the URL is wrong or of a kind that this build has not."""
    if is_kafka(url):
        from zpush.queue.kafka_producer import KafkaProducer

        return KafkaProducer(queue, url)
    from zpush.queue.layout import Layout
    from zpush.queue.streams import StreamProducer
    from zpush.store import Store

    return StreamProducer(Store(url, name="zpush-producer"), Layout(queue.prefix, queue.partitions), queue.max_messages)


def open_consumer(
    queue: QueueSettings,
    url: str,
    priorities: Sequence[Priority],
    batch: int,
    on_dead: Callable[[Priority, bool], None],
) -> Consumer:
    """Not started yet. on_dead(priority, redelivered): a record could not be read and went to the dead letters."""
    if is_kafka(url):
        from zpush.queue.kafka_consumer import KafkaConsumer

        return KafkaConsumer(queue, url, priorities, batch, on_dead)
    from zpush.queue.layout import Layout
    from zpush.queue.stream_consumer import StreamConsumer
    from zpush.store import Store

    return StreamConsumer(
        Store(url, name="zpush-consumer"),
        Store(url, name="zpush-waiter"),
        Layout(queue.prefix, queue.partitions),
        priorities,
        batch,
        on_dead,
    )


def open_receipt_writer(queue: ReceiptSettings, url: str) -> ReceiptWriter:
    """Not started yet."""
    if is_kafka(url):
        from zpush.queue.kafka_receipts import KafkaReceiptWriter

        return KafkaReceiptWriter(queue, url)
    from zpush.queue.layout import Layout
    from zpush.queue.stream_receipts import StreamReceiptWriter
    from zpush.store import Store

    layout = Layout(queue.prefix, queue.partitions)
    return StreamReceiptWriter(Store(url, name="zpush-receipts"), layout, queue.max_receipts)


def open_receipt_reader(queue: QueueSettings, url: str) -> ReceiptReader:
    """Not started yet."""
    if is_kafka(url):
        from zpush.queue.kafka_receipts import KafkaReceiptReader

        return KafkaReceiptReader(queue, url)
    from zpush.queue.layout import Layout
    from zpush.queue.stream_receipts import StreamReceiptReader
    from zpush.store import Store

    return StreamReceiptReader(Store(url, name="zpush-trace"), Layout(queue.prefix, queue.partitions))


def open_presence_writer(queue: PresenceSettings, url: str) -> PresenceWriter:
    """Not started yet."""
    if is_kafka(url):
        from zpush.queue.kafka_presence import KafkaPresenceWriter

        return KafkaPresenceWriter(queue, url)
    from zpush.queue.layout import Layout
    from zpush.queue.stream_presence import StreamPresenceWriter
    from zpush.store import Store

    layout = Layout(queue.prefix, queue.partitions)
    return StreamPresenceWriter(Store(url, name="zpush-presence"), layout, queue.max_presence)


def open_dead_letters(queue: QueueSettings, url: str) -> DeadLetters:
    """Not started yet."""
    if is_kafka(url):
        from zpush.queue.kafka_dead_letters import KafkaDeadLetters

        return KafkaDeadLetters(queue, url)
    from zpush.queue.layout import Layout
    from zpush.queue.stream_dead_letters import StreamDeadLetters
    from zpush.store import Store

    store = Store(url, name="zpush-dead-letters")
    return StreamDeadLetters(store, Layout(queue.prefix, queue.partitions), queue.max_messages)


def open_topics(queue: kafka_topics.QueueSettings, url: str, timeout_s: float) -> kafka_topics.Topics | None:
    """None for Streams, which need nothing that has to be made. timeout_s: of each question to Kafka."""
    if not is_kafka(url):
        return None
    from zpush.queue.kafka_topics import Topics

    return Topics(queue, url, timeout_s)


def is_kafka(url: str) -> bool:
    """Or Streams. ConfigError where it is neither, or what Kafka needs is not installed."""
    scheme = url.partition("://")[0]
    if scheme == KAFKA:
        if importlib.util.find_spec("confluent_kafka") is None:
            raise ConfigError("kafka:// queues need confluent-kafka: pip install 'zpush[kafka]'")
        return True
    if scheme.endswith("+cluster"):
        raise ConfigError("Streams are read on one server: a queue needs redis://, redis+sentinel:// or kafka://")
    if scheme not in REDIS_SCHEMES:
        known = ", ".join(f"{each}://" for each in (KAFKA, *REDIS_SCHEMES))
        raise ConfigError(f"a queue URL starts with one of {known}; not {scheme[:20]!r}")
    return False
