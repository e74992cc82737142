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
from zpush.errors import MalformedMessage, QueueFull, QueueUnavailable
from zpush.protocol.message import Priority
from zpush.queue.entry import MAX_PAYLOAD_BYTES


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


@pytest.mark.parametrize("started", [False, True])
async def test_what_is_begun_has_its_turn_at_the_call(kafka: Kafka, started: bool) -> None:
    """Before what is called after it, in whatever form, and with nothing awaited between them."""
    KafkaBackend(kafka, kafka.prefix)
    pusher = Pusher(kafka.url, queue=QueueLayout(prefix=kafka.prefix))
    if started:
        await pusher.push(client="c0", text="starts it")
    begun = [
        pusher.begin(client="c1", text="1"),
        pusher.begin(clients=["c1"], text="2"),
        asyncio.ensure_future(pusher.push_many([Push(client="c1", text="later")] * 500)),
        pusher.begin(client="c1", text="3"),
    ]
    await asyncio.sleep(0)  # the batch hands over its first slice
    begun.append(pusher.begin(client="c1", text="4"))
    await pusher.push(client="c1", text="5")
    await asyncio.gather(*begun)
    await pusher.close()
    expected = ["1", "2", "3", *["later"] * 500, "4", "5"]
    assert written(kafka.bootstrap, kafka.prefix)["c1"] == expected
    assert pusher.counts == Counts(taken=505 + started, refused=0)


async def test_what_is_begun_is_flushed_counted_and_told(kafka: Kafka) -> None:
    KafkaBackend(kafka, kafka.prefix)
    told: dict[str, object] = {}
    layout = QueueLayout(prefix=kafka.prefix, librdkafka={"queue.buffering.max.messages": "3", "linger.ms": "50"})
    async with Pusher(kafka.url, queue=layout) as pusher:
        begun = [pusher.begin(client="c1", text=str(n), id=f"m{n}") for n in range(5)]
        begun[1].cancel()
        await pusher.flush()
        assert [each.done() for each in begun] == [True] * 5
        results = await asyncio.gather(*begun, return_exceptions=True)
        assert results[0] == "m0" and results[2] == "m2"
        assert isinstance(results[1], asyncio.CancelledError)
        assert isinstance(results[3], QueueFull) and isinstance(results[4], QueueFull)
        assert pusher.counts == Counts(taken=3, refused=2)
        with pytest.raises(MalformedMessage, match="at most"):
            await pusher.push(client="c1", binary=bytes(MAX_PAYLOAD_BYTES + 1))
    async with Pusher(kafka.url, queue=layout, on_result=told.__setitem__) as pusher:
        assert await pusher.push(client="c1", text="x", id="m5") == "m5"
    assert told == {"m5": "m5"}


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


async def test_what_librdkafka_refuses_is_counted_by_whichever_way_it_came(kafka: Kafka) -> None:
    KafkaBackend(kafka, kafka.prefix)
    layout = QueueLayout(prefix=kafka.prefix, librdkafka={"message.max.bytes": "2000"})
    async with Pusher(kafka.url, queue=layout) as pusher:
        await pusher.push(client="c1", text="small")
        large = "x" * 5000
        for refused in (
            pusher.push(client="c1", text=large),
            pusher.push(clients=["c1"], text=large),
            pusher.begin(client="c1", text=large),
        ):
            with pytest.raises(MalformedMessage, match="does not take the record"):
                await refused
    assert pusher.counts == Counts(taken=1, refused=3)


async def test_what_fails_on_its_way_is_counted_by_whichever_way_it_went(kafka: Kafka) -> None:
    """The topics are missing."""
    layout = QueueLayout(prefix=kafka.prefix, librdkafka={"topic.metadata.propagation.max.ms": "200"})
    async with Pusher(kafka.url, queue=layout) as pusher:
        for refused in (
            pusher.push(client="c1", text="x"),
            pusher.push(clients=["c1"], text="x"),
            pusher.begin(client="c1", text="x"),
        ):
            with pytest.raises(QueueUnavailable, match="is missing"):
                await refused
    assert pusher.counts == Counts(taken=0, refused=3)


async def test_a_broker_that_goes_away_is_an_exception_and_close_ends(broker: Broker) -> None:
    KafkaBackend(broker, "zpush")
    pusher = Pusher(broker.url, queue=QueueLayout(librdkafka={"delivery.timeout.ms": "300000"}))
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
