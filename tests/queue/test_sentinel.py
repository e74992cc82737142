"""Streams behind Sentinels: what was replicated is delivered after a failover, in order; a cluster is refused."""

from __future__ import annotations

import asyncio

import pytest

from tests.queue.backends import message, take_all
from tests.store.topologies import Cluster, Sentinels
from tests.support import eventually
from zpush.config.settings import Queue
from zpush.errors import ConfigError, QueueUnavailable
from zpush.protocol.message import Priority
from zpush.queue.open import open_consumer, open_producer

PRIORITIES = tuple(Priority)


async def test_what_was_taken_survives_the_primary(sentinels: Sentinels) -> None:
    queue = Queue(url=sentinels.url, partitions=4)
    producer = open_producer(queue, queue.url)
    consumer = open_consumer(queue, queue.url, PRIORITIES, 500, lambda priority, redelivered: None)
    await asyncio.gather(producer.start(), consumer.start())
    try:
        before = [message(f"c{i % 7}") for i in range(40)]
        assert await producer.publish(before[:20]) == [None] * 20
        taken = await take_all([consumer], 10, finish=False)  # type: ignore[list-item]
        assert await producer.publish(before[20:]) == [None] * 20
        old = sentinels.primary_of()
        assert old.command("WAIT", 1, 5000) == 1
        sentinels.kill(old)
        await eventually(lambda: not producer.up, "the producer knows")
        assert isinstance((await producer.publish([message("c1")]))[0], QueueUnavailable)
        await asyncio.to_thread(sentinels.failover)
        await eventually(lambda: producer.up and consumer.up, "both have followed")
        after = [message(f"c{i % 7}") for i in range(20)]
        assert await producer.publish(after) == [None] * 20
        consumer.finish(taken)
        rest = await take_all([consumer], 60 - len(taken))  # type: ignore[list-item]
        came = [record.message for record in [*taken, *rest]]
        for key in {each.key for each in before}:
            ids = list(dict.fromkeys(each.id for each in came if each.key == key))
            assert ids == [each.id for each in [*before, *after] if each.key == key]
        await eventually(lambda: _empty(producer), "all is finished")
    finally:
        await consumer.stop()
        await producer.stop()


async def _empty(producer: object) -> bool:
    lag = await producer.lag()  # type: ignore[attr-defined]
    return all(of.messages == 0 for of in lag.values())


async def test_a_cluster_is_refused_with_what_to_use_instead(cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match=r"redis\+sentinel:// or kafka://"):
        open_producer(Queue(), cluster.url)
