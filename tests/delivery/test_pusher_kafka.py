"""The push library on Kafka: from a loop, from plain threads, and with a broker that goes away."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict

import pytest

from tests.kafka.broker import Broker
from tests.kafka.fixtures import Kafka
from tests.queue.kafka_backend import KafkaBackend, read_all
from tests.support import eventually
from zpush.delivery.pusher import Counts, Push, Pusher, QueueLayout
from zpush.errors import MalformedMessage, QueueUnavailable
from zpush.protocol.message import Priority


def written(bootstrap: str, prefix: str, priority: Priority = Priority.NORMAL) -> dict[str, list[str]]:
    """Payloads by key, in order."""
    found = defaultdict(list)
    for record in read_all(bootstrap, f"{prefix}.{priority.label}"):
        found[record.key().decode()].append(record.value().decode())
    return dict(found)


async def test_pushes_of_every_kind_become_records(kafka: Kafka) -> None:
    KafkaBackend(kafka, kafka.prefix)
    async with Pusher(kafka.url, queue=QueueLayout(prefix=kafka.prefix)) as pusher:
        ids = [
            await pusher.push(client="c1", text="a", priority="high"),
            await pusher.push(clients=["c1", "c2"], data={"b": 1}, priority="high", ttl=60),
            await pusher.push(user="u1", text="c", priority="high", id="mine"),
            await pusher.push(all=True, text="d", priority="high"),
        ]
        assert isinstance(*await pusher.push_many([Push(client="", text="x")]), MalformedMessage)
    records = read_all(kafka.bootstrap, f"{kafka.prefix}.high")
    by_value = defaultdict(list)
    for record in records:
        by_value[record.value().decode()].append((record.key().decode(), dict(record.headers())))
    assert [key for key, _ in by_value["a"]] == ["c1"]
    assert sorted(key for key, _ in by_value['{"b":1}']) == ["c1", "c2"]
    assert all(headers["id"].decode() == ids[1] and headers["expires"] for _, headers in by_value['{"b":1}'])
    assert by_value["c"] == [("u1", {"id": b"mine", "type": b"text", "target": b"user:u1"})]
    assert by_value["d"] == [("", {"id": ids[3].encode(), "type": b"text", "target": b"all"})]


def test_from_several_threads_each_in_order(kafka: Kafka) -> None:
    KafkaBackend(kafka, kafka.prefix)

    def send(number: int) -> None:
        for i in range(20):
            pusher.push_sync(client=f"c{number}", text=str(i))
        pusher.push_many_sync([Push(client=f"c{number}", text=str(i)) for i in range(20, 300)])

    with Pusher(kafka.url, queue=QueueLayout(prefix=kafka.prefix, librdkafka={"linger.ms": "1"})) as pusher:
        threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert pusher.counts == Counts(taken=1200, refused=0)
    assert written(kafka.bootstrap, kafka.prefix) == {f"c{n}": [str(i) for i in range(300)] for n in range(4)}
    assert not {t.name for t in threading.enumerate()} & {"zpush-pusher", "zpush-producer"}


async def test_a_broker_that_goes_away_is_an_exception_and_close_ends(broker: Broker) -> None:
    KafkaBackend(broker, "zpush")
    pusher = Pusher(broker.url)
    await pusher.push(client="c1", text="taken")
    broker.pause()
    begun = asyncio.create_task(pusher.push(client="c1", text="on its way"))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await pusher.flush(0.2)
    broker.kill()

    async def refused() -> bool:
        try:
            async with asyncio.timeout(0.5):
                await pusher.push(client="c1", text="too late")
        except TimeoutError:
            return False
        except QueueUnavailable:
            return True
        raise AssertionError("nobody could have taken it")

    await eventually(refused)
    async with asyncio.timeout(60):
        await pusher.close()
    with pytest.raises(QueueUnavailable):
        await begun
