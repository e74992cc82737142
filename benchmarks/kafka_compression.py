"""What compression of Kafka's batches costs and saves, by codec, at full speed and at a trickle.

    .venv/bin/python -m benchmarks.kafka_compression [host:port]

Without an address it starts the tests' broker. Messages are 180 bytes of JSON with two headers, as chats send them; all
settings are those of zpush's own producer and consumer. Figures: CPU time of this process a message, producing and
consuming (librdkafka's threads included), and bytes a message on the wire, which are stored, replicated and mirrored.
"""

from __future__ import annotations

import json
import random
import sys
import time
import uuid
from typing import Any

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from zpush.queue import kafka_poller, kafka_sender

MESSAGES = 200_000
TRICKLE = 10_000
TRICKLE_PER_S = 2_000
CODECS = ("none", "lz4", "snappy", "zstd")
TEXT = "hello world the quick brown fox jumps over your lazy dog; an order has been shipped and will arrive tomorrow"


def payloads() -> list[bytes]:
    chance, words = random.Random(1), TEXT.split()

    def one(number: int) -> bytes:
        text = " ".join(chance.choice(words) for _ in range(12))
        chat = f"{chance.getrandbits(128):032x}"
        sender = f"user-{chance.randrange(10**6)}"
        return json.dumps({"type": "message", "from": sender, "chat": chat, "text": text, "ts": number}).encode()

    return [one(1_700_000_000_000 + number) for number in range(MESSAGES)]


def produce(bootstrap: str, topic: str, codec: str, messages: list[bytes], per_s: float) -> tuple[float, float]:
    """(CPU µs, bytes) a message."""
    statistics: list[str] = []
    chance = random.Random(2)
    watched = {"statistics.interval.ms": 200, "stats_cb": statistics.append, "compression.type": codec}
    producer = Producer({"bootstrap.servers": bootstrap, **kafka_sender.DEFAULTS, **kafka_sender.MUSTS, **watched})
    producer.list_topics(topic, 30)
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    for number, message in enumerate(messages):
        headers: Any = [("id", f"{chance.getrandbits(96):024x}"), ("type", b"text")]
        while len(producer) > 50_000:
            producer.poll(0.001)
        producer.produce(topic, message, f"client-{number % 10_000}", headers=headers)
        if per_s:
            time.sleep(max(0.0, begin_s + number / per_s - time.perf_counter()))
        if number % 300 == 0:
            producer.poll(0)
    producer.flush()
    cpu_us = (time.process_time() - begin_cpu_s) / len(messages) * 1e6
    producer.poll(0.5)  # the last statistics
    brokers = json.loads(statistics[-1])["brokers"].values()
    return cpu_us, sum(broker["txbytes"] for broker in brokers) / len(messages)


def consume(bootstrap: str, topic: str, count: int) -> float:
    """CPU µs a message."""
    group = {"group.id": uuid.uuid4().hex, "bootstrap.servers": bootstrap}
    consumer = Consumer({**kafka_poller.DEFAULTS, **kafka_poller.MUSTS, **group})
    consumer.subscribe([topic])
    seen = 0
    while not seen:
        seen += len(consumer.consume(1, 1.0))
    begin_cpu_s = time.process_time()
    while seen < count:
        seen += len(consumer.consume(500, 0.1))
    cpu_us = (time.process_time() - begin_cpu_s) / count * 1e6
    consumer.close()
    return cpu_us


def measure(bootstrap: str) -> None:
    admin, messages = AdminClient({"bootstrap.servers": bootstrap}), payloads()
    print(f"payload {sum(map(len, messages)) / len(messages):.0f} bytes")
    for per_s, some in ((0, messages), (TRICKLE_PER_S, messages[:TRICKLE])):
        for codec in CODECS:
            topic = f"codec-{uuid.uuid4().hex[:8]}"
            admin.create_topics([NewTopic(topic, 8, 1)])[topic].result(30)
            producing_us, size = produce(bootstrap, topic, codec, some, per_s)
            consuming_us = consume(bootstrap, topic, len(some))
            speed = f"{per_s}/s" if per_s else "full speed"
            spent = f"produce {producing_us:5.2f} µs  consume {consuming_us:5.2f} µs"
            print(f"{speed:10} {codec:6}  {spent}  {size:5.0f} bytes", flush=True)


def main() -> None:
    if len(sys.argv) > 1:
        measure(sys.argv[1])
        return
    from tests.kafka.broker import Broker

    broker = Broker(heap_mib=512)
    try:
        broker.start()
        measure(broker.bootstrap)
    finally:
        broker.stop()


if __name__ == "__main__":
    main()
