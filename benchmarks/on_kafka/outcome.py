"""What a processor itself costs: from poll to outcome, with a registry and peers that cost nothing."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from statistics import median
from typing import cast

import uvloop

from benchmarks.figures import Figure, Progress
from benchmarks.on_kafka.broker import Kafka, fill, kafka
from zpush.config.settings import Processor as ProcessorSettings
from zpush.delivery.base import Delivery, Entry
from zpush.delivery.fan_out import FanOut
from zpush.delivery.peers import Peers
from zpush.delivery.processor import GC_THRESHOLD, Processor
from zpush.delivery.router import Router
from zpush.delivery.tally import Tally
from zpush.protocol.message import Outcome, Priority
from zpush.queue.kafka_consumer import KafkaConsumer
from zpush.registry.base import Lease, Node, NodeState, Registry
from zpush.scoreboard import Row, Scoreboard

MESSAGES = 100_000
ROUNDS = 3
WITHIN_S = 60.0
TARGET_US = 6.0
TURN_MS = 2.0
NODE = Node("owner", "127.0.0.1:1", "local", NodeState.UP)


class NullRegistry:
    """Everybody is on one box."""

    up = True
    reason = ""
    reads_replicas = False

    def on_reconnect(self, callback: Callable[[bool], None]) -> None: ...

    async def nodes(self) -> dict[str, Node]:
        return {NODE.id: NODE}

    async def whole(self) -> bool:
        return True

    async def look_up(self, client_ids: Sequence[str], *, fresh: bool = False) -> list[Lease]:
        return [Lease(client_id, NODE.id, 1, "") for client_id in client_ids]


class NullPeers:
    """Everything is delivered, a turn later."""

    def deliver(self, node: Node, priority: Priority, entries: Sequence[Entry], delivery: Delivery) -> None:
        outcomes = bytes([Outcome.DELIVERED]) * len(entries)
        asyncio.get_running_loop().call_soon(delivery.answered, outcomes)

    def forget(self, node_id: str) -> None: ...


def outcome(progress: Progress) -> Iterator[Figure]:
    """CPU time of a processor per message of 200 B, librdkafka's threads included; null registry and null peers"""
    with kafka() as it:
        rounds = []
        for _ in progress.rounds(ROUNDS):
            fill(it, Priority.NORMAL, MESSAGES, "client-", 10_000)
            rounds.append(uvloop.run(_cpu_s(it)) * 1e6)
        fill(it, Priority.NORMAL, MESSAGES, "client-", 10_000)
        longest_ms = uvloop.run(_longest_turn_s(it)) * 1e3
    yield Figure("poll to outcome", median(rounds), "µs", target=TARGET_US, rounds=rounds)
    yield Figure("the longest turn of its loop, CPU", longest_ms, "ms", target=TURN_MS)


async def _cpu_s(it: Kafka) -> float:
    """Of a message, from the first outcomes to the last: starting is not counted."""
    async with _processing(it) as row:
        first, began_s = row.get("taken_normal"), time.process_time()
        while row.get("taken_normal") < MESSAGES:
            await asyncio.sleep(0.01)
        return (time.process_time() - began_s) / (MESSAGES - first)


async def _longest_turn_s(it: Kafka) -> float:
    """Of the loop's thread: what another processor of the machine does is not counted."""
    longest_s = 0.0
    async with _processing(it) as row:
        while row.get("taken_normal") < MESSAGES:
            before_s = time.thread_time()
            await asyncio.sleep(0)
            longest_s = max(longest_s, time.thread_time() - before_s)
    return longest_s


@asynccontextmanager
async def _processing(it: Kafka) -> AsyncIterator[Row]:
    """A processor's counters, from its first outcomes on; all of it is to be done within WITHIN_S."""
    registry, peers = cast(Registry, NullRegistry()), cast(Peers, NullPeers())
    row = Scoreboard().rows[1]
    router = Router(registry, peers, None, "processor", "local", 15.0, 10.0)
    tally = Tally(row)
    consumer = KafkaConsumer(it.queue, it.url, list(Priority), 500, tally.dead)
    processor = Processor(
        consumer, router, FanOut(registry, peers, router, "local", 15.0), tally, list(Priority), ProcessorSettings()
    )
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    await consumer.start()
    running = asyncio.create_task(processor.run())
    try:
        async with asyncio.timeout(WITHIN_S):
            while not row.get("taken_normal"):
                await asyncio.sleep(0.001)
            yield row
    except TimeoutError:
        raise RuntimeError(f"not all messages had an outcome within {WITHIN_S:.0f} s") from None
    finally:
        running.cancel()
        await consumer.stop()
        await router.stop()
