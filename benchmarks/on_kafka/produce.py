"""What the push library adds to confluent-kafka's produce().

Like is compared with like. Bare produce() has any number of messages under way and awaits none before the next, as have
batches and pushes that are begun and awaited together. Who awaits each push, a thousand at once, waits for the linger
and the broker besides: so does bare produce() with no more than that under way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from statistics import median

import uvloop

from benchmarks.figures import Figure, Progress
from benchmarks.on_kafka.broker import HEADERS, Kafka, bare_producer, kafka, keys, payloads
from zpush import Push, Pusher
from zpush.delivery.pusher import QueueLayout
from zpush.protocol.message import Priority

COUNT = 50_000
BATCH = 1_000
AT_ONCE = 1_000  # single pushes under way
CLIENTS = 10_000
ROUNDS = 5
BATCH_TARGET = 1 / 0.8
SINGLE_TARGET = 1 / 0.6
BARE, BARE_AT_ONCE = "bare", "bare, 1,000 at once"
JUDGED: dict[str, tuple[str, float | None]] = {  # what each is compared with, and its target
    "in batches of 1,000": (BARE, BATCH_TARGET),
    "one by one, awaited together": (BARE, SINGLE_TARGET),
    "one by one, 1,000 at once": (BARE_AT_ONCE, SINGLE_TARGET),
    BARE_AT_ONCE: (BARE, None),
}


def produce(progress: Progress) -> Iterator[Figure]:
    """Time per message through Pusher, acknowledged by the broker; floor: bare produce() with headers and callback"""
    with kafka() as it:
        ways: dict[str, Callable[[Kafka], float]] = {
            BARE: _bare,
            "in batches of 1,000": _batches,
            "one by one, awaited together": _begun,
            "one by one, 1,000 at once": _singles,
            BARE_AT_ONCE: partial(_bare, at_once=AT_ONCE),
        }
        rounds: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way(it)  # warm
        for _ in progress.rounds(ROUNDS):
            for name, way in ways.items():
                rounds[name].append(way(it) / COUNT * 1e6)
    for name, (bare, target) in JUDGED.items():
        ours, floors = rounds[name], rounds[bare]
        ratio = median(a / b for a, b in zip(ours, floors, strict=True))
        yield Figure(
            name, median(ours), "µs", floor=median(floors), ratio=ratio, target=target, of_ratio=True, rounds=ours
        )


def _bare(it: Kafka, at_once: int = COUNT) -> float:
    producer, names, topic, told = bare_producer(it), keys("client-", CLIENTS), it.topic(Priority.NORMAL), []
    producer.produce(topic, _TEXTS[0], b"client-first")
    producer.flush(60)  # it is connected
    began_s = time.perf_counter()
    for n in range(COUNT):
        producer.produce(
            topic,
            _TEXTS[n % len(_TEXTS)],
            names[n % CLIENTS],
            headers=HEADERS,
            on_delivery=lambda error, _: told.append(error),
        )
        producer.poll(0)
        while n - len(told) >= at_once:
            producer.poll(0.001)
    producer.flush(60)
    took_s = time.perf_counter() - began_s
    if len(told) != COUNT or any(told):
        raise RuntimeError("not everything was produced")
    return took_s


def _batches(it: Kafka) -> float:
    async def push(pusher: Pusher, pushes: list[Push]) -> None:
        batches = (pushes[n : n + BATCH] for n in range(0, COUNT, BATCH))
        for results in await asyncio.gather(*(pusher.push_many(batch) for batch in batches)):
            _check(results)

    return _pushed(it, push)


def _begun(it: Kafka) -> float:
    async def push(pusher: Pusher, pushes: list[Push]) -> None:
        begun = []
        for n, one in enumerate(pushes):
            begun.append(pusher.begin(client=one.client or "", text=one.text or ""))
            if n % BATCH == 0:
                await asyncio.sleep(0)  # others have the loop as well
        for each in begun:
            await each

    return _pushed(it, push)


def _singles(it: Kafka) -> float:
    async def push(pusher: Pusher, pushes: list[Push]) -> None:
        left = iter(pushes)

        async def sender() -> None:
            for one in left:
                await pusher.push(client=one.client or "", text=one.text or "")

        await asyncio.gather(*(sender() for _ in range(AT_ONCE)))

    return _pushed(it, push)


_TEXTS = [each.decode() for each in payloads()]


def _pushed(it: Kafka, push: Callable[[Pusher, list[Push]], Awaitable[None]]) -> float:
    async def run() -> float:
        names = [key.decode() for key in keys("client-", CLIENTS)]
        pushes = [Push(client=names[n % CLIENTS], text=_TEXTS[n % len(_TEXTS)]) for n in range(COUNT)]
        async with Pusher(it.url, queue=QueueLayout(prefix=it.prefix)) as pusher:
            await pusher.push(client="client-first", text="connects")
            began_s = time.perf_counter()
            await push(pusher, pushes)
            return time.perf_counter() - began_s

    return uvloop.run(run())


def _check(results: Sequence[object]) -> None:
    for result in results:
        if isinstance(result, Exception):
            raise RuntimeError("not everything was pushed") from result
