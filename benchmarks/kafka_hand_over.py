"""How records come from a Kafka consumer to the loop: a thread of our own, or confluent-kafka's AIOConsumer.

    .venv/bin/python -m benchmarks.kafka_hand_over [host:port]

Without an address it starts the tests' broker. Each way reads the same backlog of 200-byte records with two headers,
then a trickle of records whose values are the time at which they were produced. Figures: records a second, CPU time of
this process a record (librdkafka's threads included; in the trickle also the sender's), time from produce() to loop.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import uvloop
from confluent_kafka import Consumer, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.aio import AIOConsumer

BACKLOG = 600_000
TRICKLE = 5_000
TRICKLE_PER_S = 1_000
BATCH = 500
POLL_S = 0.1
FETCH = {"fetch.queue.backoff.ms": 20, "queued.min.messages": 20_000}
Batches = AsyncIterator[list[Message]]


async def of_a_thread(config: dict[str, Any], topic: str) -> Batches:
    """poll() waits for the first record, consume() takes what came with it; one wake-up of the loop a batch."""
    loop, batches = asyncio.get_running_loop(), asyncio.Queue[list[Message]]()
    room, stopping = threading.Semaphore(4), threading.Event()

    def read() -> None:
        consumer = Consumer(config)
        consumer.subscribe([topic])
        while not stopping.is_set():
            first = consumer.poll(POLL_S)
            if first is not None and room.acquire():
                loop.call_soon_threadsafe(batches.put_nowait, [first, *consumer.consume(BATCH - 1, 0)])
        consumer.close()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        while True:
            yield await batches.get()
            room.release()
    finally:
        stopping.set()
        room.release(4)
        await asyncio.to_thread(thread.join)


async def of_aio(config: dict[str, Any], topic: str) -> Batches:
    """The same two calls, each on a thread of AIOConsumer's pool."""
    consumer = AIOConsumer(config, max_workers=1)
    await consumer.subscribe([topic])
    try:
        while True:
            first = await consumer.poll(POLL_S)
            if first is not None:
                yield [first, *await consumer.consume(BATCH - 1, 0)]
    finally:
        await consumer.close()


async def of_aio_consume(config: dict[str, Any], topic: str) -> Batches:
    """AIOConsumer.consume() alone, which waits for a whole batch or its timeout."""
    consumer = AIOConsumer(config, max_workers=1)
    await consumer.subscribe([topic])
    try:
        while True:
            if batch := await consumer.consume(BATCH, 0.01):
                yield batch
    finally:
        await consumer.close()


WAYS: dict[str, Callable[[dict[str, Any], str], Any]] = {
    "thread, poll + consume": of_a_thread,
    "AIOConsumer, poll + consume": of_aio,
    "AIOConsumer, consume(500, 10 ms)": of_aio_consume,
}


async def backlog(bootstrap: str, topic: str, way: Callable[..., Any], fetch: dict[str, int]) -> tuple[float, float]:
    """(records a second, CPU µs a record), from the first batch on."""
    seen, begin_s, begin_cpu_s = 0, 0.0, 0.0
    async with aclosing(way(_config(bootstrap, fetch), topic)) as batches:
        async for batch in batches:
            if not seen:
                begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
            seen += len(batch)
            if seen >= BACKLOG:
                break
        took_s, cpu_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
    return seen / took_s, cpu_s / seen * 1e6


async def trickle(bootstrap: str, topic: str, way: Callable[..., Any]) -> tuple[float, float, float]:
    """(p50 ms, p99 ms, CPU µs a record)."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
    producer.produce(topic, b"the group is there")
    producer.flush()

    def send() -> None:
        begin_s = time.perf_counter()
        for n in range(TRICKLE):
            producer.produce(topic, b"%d" % time.perf_counter_ns(), b"%d" % n)
            time.sleep(max(0.0, begin_s + n / TRICKLE_PER_S - time.perf_counter()))
        producer.flush()

    sender = threading.Thread(target=send)
    waited_ms: list[float] = []
    async with aclosing(way(_config(bootstrap, FETCH), topic)) as batches:
        await anext(batches)
        sender.start()
        begin_cpu_s = time.process_time()
        async for batch in batches:
            now_ns = time.perf_counter_ns()
            waited_ms += [(now_ns - int(m.value() or b"0")) / 1e6 for m in batch]
            if len(waited_ms) >= TRICKLE:
                break
        cpu_s = time.process_time() - begin_cpu_s
    sender.join()
    waited_ms.sort()
    return waited_ms[TRICKLE // 2], waited_ms[TRICKLE * 99 // 100], cpu_s / TRICKLE * 1e6


def _config(bootstrap: str, fetch: dict[str, int]) -> dict[str, Any]:
    group = {"group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    return {"bootstrap.servers": bootstrap, **group, **fetch}


def _topic(bootstrap: str) -> str:
    """A new one of eight partitions."""
    topic = f"hand-over-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, 8, 1)])[topic].result(30)
    return topic


def _fill(bootstrap: str, topic: str) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "queue.buffering.max.messages": BACKLOG})
    for n in range(BACKLOG):
        headers: list[tuple[str, str | bytes | None]] = [("id", b"0123456789ab%012d" % n), ("type", b"text")]
        producer.produce(topic, b"x" * 200, b"client-%d" % (n % 10_000), headers=headers)
    producer.flush()


async def measure(bootstrap: str) -> None:
    big = _topic(bootstrap)
    _fill(bootstrap, big)
    for name, way in WAYS.items():
        for fetch in ({}, FETCH):
            per_s, cpu_us = await backlog(bootstrap, big, way, fetch)
            print(f"{name:34} backlog {per_s:9,.0f}/s {cpu_us:5.2f} µs   {fetch or 'default fetch'}", flush=True)
        p50_ms, p99_ms, cpu_us = await trickle(bootstrap, _topic(bootstrap), way)
        print(f"{name:34} {TRICKLE_PER_S}/s p50 {p50_ms:5.2f} p99 {p99_ms:6.2f} ms {cpu_us:5.0f} µs", flush=True)


def main() -> None:
    if len(sys.argv) > 1:
        uvloop.run(measure(sys.argv[1]))
        return
    from tests.kafka.broker import Broker

    broker = Broker(heap_mib=512)
    try:
        broker.start()
        uvloop.run(measure(broker.bootstrap))
    finally:
        broker.stop()


if __name__ == "__main__":
    main()
