"""What librdkafka has fetched ahead is bounded too; test_kafka.py has what waits in the reader."""

from __future__ import annotations

import json
import os

from confluent_kafka import Consumer

from tests.queue.kafka_backend import KafkaBackend
from tests.queue.test_kafka import topic
from tests.support import eventually
from zpush.protocol.message import Priority

NORMAL = Priority.NORMAL
MOST_BYTES = 20 << 20  # 16 MiB, and the answers that go past them


async def test_what_is_fetched_ahead_is_bounded_in_bytes(on_kafka: KafkaBackend) -> None:
    """As librdkafka tells of a client with a reader's settings, beside a backlog of four times as much."""
    for partition in range(on_kafka.layout.partitions):
        await on_kafka.produce_many(NORMAL, partition, [(os.urandom(32 << 10), b"c1", [])] * 500)
    reader = (await on_kafka.consumer([Priority.HIGH]))._readers[Priority.HIGH]
    fetched: list[int] = []

    def see(statistics: str) -> None:
        partitions = json.loads(statistics)["topics"].get(topic(on_kafka), {}).get("partitions", {})
        fetched.append(max((each["fetchq_size"] for each in partitions.values()), default=0))  # they share one queue

    client = Consumer({**reader._poller._config, "stats_cb": see, "group.id": f"{on_kafka.layout.prefix}.slow"})
    client.subscribe([topic(on_kafka)])

    def full() -> bool:
        client.poll(0)
        return sum(size > MOST_BYTES // 2 for size in fetched) >= 8

    await eventually(full, "two seconds of being full")
    client.close()
    assert max(fetched) < MOST_BYTES
