"""The whole road with Kafka as the queue: real servers, real clients, and senders that know nothing of zpush."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal

import pytest
from confluent_kafka import Producer

from tests.kafka.broker import Broker
from tests.kafka.fixtures import Kafka
from tests.kafka.jars import jars
from tests.queue.kafka_backend import SESSION_S
from tests.road.api import Api
from tests.road.devices import Connect, Device, Spread
from tests.road.server import Serve, Server
from tests.support import Valkey, end, eventually, halt, run, run_zpush, spawn, wait_until
from zpush import Push, Pusher
from zpush.delivery.pusher import QueueLayout
from zpush.scoreboard import COUNTED_OUTCOMES

NUMBERS = [str(n) for n in range(200)]
ABSENT = [f"absent-{n}" for n in range(32)]  # clients in all partitions, so that each processor has some work
SURE = "queue.kafka.session.timeout.ms=30000"  # where nobody dies, a busy machine is no reason to miss a processor
ServeKafka = Callable[..., Server]


def settings_for(url: str, prefix: str) -> list[str]:
    kafka = {"session.timeout.ms": int(SESSION_S * 1000), "heartbeat.interval.ms": 200}
    sets = [f"queue.kafka.{name}={value}" for name, value in kafka.items()]
    return [f"queue.url={url}", f"queue.prefix={prefix}", *sets]


def make_topics(sets: list[str]) -> None:
    done = run_zpush("topics", "create", *[part for each in sets for part in ("--set", each)])
    assert done.returncode == 0, done.stderr


@pytest.fixture
def serve_kafka(serve: Serve, kafka: Kafka) -> ServeKafka:
    """serve_kafka(*overrides): one more server on the session's broker."""
    sets = settings_for(kafka.url, kafka.prefix)
    make_topics(sets)
    return lambda *overrides: serve(*sets, *overrides)


def pusher_for(kafka: Kafka) -> Pusher:
    return Pusher(kafka.url, queue=QueueLayout(prefix=kafka.prefix))


def shares(server: Server) -> list[int]:
    """How many of the 24 partitions each living processor holds, the fewest first."""
    held: dict[int, dict[str, int]] = {}
    for line in server.logged("partitions held"):
        held.setdefault(line["pid"], {})[line["priority"]] = line["held"]
    gone = {line["pid"] for line in server.logged("processor has left")}
    return sorted(sum(each.values()) for pid, each in held.items() if pid not in gone)


async def test_queued_pushes_of_every_kind_arrive(serve_kafka: ServeKafka, spread: Spread) -> None:
    server = serve_kafka(SURE)
    one, other = await spread(server, "u1")
    async with Api(server.api) as api:
        await api.push({"client": one.client_id}, text="to one", priority="high")
        await api.push({"user": "u1"}, data={"to": "a user"})
        await api.push({"all": True}, text="to all", priority="low")
        assert Counter(await one.receive_all(3)) == Counter(["to one", '{"to":"a user"}', "to all"])
        assert Counter(await other.receive_all(2)) == Counter(['{"to":"a user"}', "to all"])
        await api.push({"client": one.client_id}, base64="AP8=", ttl="60s")
        assert await one.receive() == b"\x00\xff"
        metrics = await api.until_counted("zpush_messages_total", 6, outcome="delivered")
        assert metrics.total("zpush_taken_total") == 6
        assert metrics.total("zpush_redelivered_total") == 0
        assert metrics.total("zpush_queue_up") == 1

        async def nothing_left() -> bool:
            return (await api.metrics()).total("zpush_queue_lag_messages") == 0

        await eventually(nothing_left)


async def test_the_backlog_shows_without_a_processor(serve_kafka: ServeKafka) -> None:
    server = serve_kafka("processor.instances=0")
    async with Api(server.api) as api:
        for priority, count in (("high", 2), ("low", 5)):
            for _ in range(count):
                await api.push({"client": "somebody"}, text="x", priority=priority)

        async def shown() -> bool:
            metrics = await api.metrics()
            lags = [metrics.total("zpush_queue_lag_messages", priority=p) for p in ("high", "normal", "low")]
            return lags == [2, 0, 5] and metrics.total("zpush_queue_age_seconds", priority="low") > 0

        await eventually(shown)


STRANGER = """
import sys
from confluent_kafka import Producer

bootstrap, prefix, client, user = sys.argv[1:]
producer = Producer({"bootstrap.servers": bootstrap})
producer.produce(f"{prefix}.high", b"plain", key=client)
producer.produce(f"{prefix}.normal", b'{"a": 1}', key=client, headers={"id": "m1", "type": "json"})
producer.produce(f"{prefix}.normal", b"too late", key=client, headers={"expires": "1700000000000"})
producer.produce(f"{prefix}.low", b"to a user", key="anything", headers={"target": f"user:{user}"})
producer.produce(f"{prefix}.low", b"to all", headers={"target": "all"})
producer.flush()
"""


async def test_any_kafka_producer_is_a_sender(serve_kafka: ServeKafka, kafka: Kafka, spread: Spread) -> None:
    """A script that imports confluent_kafka and nothing of ours."""
    server = serve_kafka()
    one, other = await spread(server, "u1")
    script = [sys.executable, "-c", STRANGER, kafka.bootstrap, kafka.prefix, one.client_id, "u1"]
    done = await asyncio.to_thread(run, *script)
    assert done.returncode == 0, done.stderr
    assert Counter(await one.receive_all(4)) == Counter(["plain", '{"a": 1}', "to a user", "to all"])
    assert Counter(await other.receive_all(2)) == Counter(["to a user", "to all"])
    async with Api(server.api) as api:
        await api.until_counted("zpush_messages_total", 1, outcome="expired")


async def test_a_sender_whose_clock_is_wrong(serve_kafka: ServeKafka, kafka: Kafka, connect: Connect) -> None:
    """By an hour, the default of processor.max_age: slow, and its messages are late; fast, and they last longer."""
    server = serve_kafka()
    device = await connect(server, "c1")
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    now_ms, hour_ms, ttl_ms = time.time_ns() // 1_000_000, 3_600_000, 60_000
    for name, clock_ms in (("slow", now_ms - hour_ms - 1000), ("fast", now_ms + hour_ms), ("right", now_ms)):
        expires = [("expires", str(clock_ms + ttl_ms))]
        for text, headers in ((f"{name}, with expires", expires), (f"{name}, without", [])):
            producer.produce(f"{kafka.prefix}.high", text, b"c1", timestamp=clock_ms, headers=headers)
    await asyncio.to_thread(producer.flush)
    in_time = ["fast, with expires", "fast, without", "right, with expires", "right, without"]
    assert await device.receive_all(4) == in_time
    async with Api(server.api) as api:
        metrics = await api.until_counted("zpush_messages_total", 2, outcome="expired")
        assert metrics.total("zpush_messages_total", outcome="delivered") == 4
        assert metrics.total("zpush_delivery_seconds_sum") < 60, "what comes from the future has waited for nothing"


@pytest.mark.skipif("ZPUSH_TEST_KAFKA" in os.environ, reason="needs Kafka's own jars")
async def test_kafkas_console_producer_is_a_sender(serve_kafka: ServeKafka, kafka: Kafka, connect: Connect) -> None:
    server = serve_kafka()
    device = await connect(server, "c1")
    properties = ("--property", "parse.key=true", "--property", "key.separator=:")
    where = ("--bootstrap-server", kafka.bootstrap, "--topic", f"{kafka.prefix}.high")
    command = jars().command("org.apache.kafka.tools.ConsoleProducer", *where, *properties)
    console = spawn(*command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    await asyncio.to_thread(console.communicate, "c1:hello\nc1:from Java\n", 60)
    assert await device.receive_all(2) == ["hello", "from Java"]


async def test_processors_share_the_work_and_one_takes_over_at_once(
    serve_kafka: ServeKafka, kafka: Kafka, spread: Spread
) -> None:
    server = serve_kafka("processor.instances=0", SURE)
    devices = await spread(server)
    async with pusher_for(kafka) as pusher:

        async def everything_arrives() -> None:
            await pusher.push_many(Push(client=d.client_id, text=n) for n in NUMBERS for d in devices)
            for device in devices:
                assert await device.receive_all(len(NUMBERS)) == NUMBERS

        first = server.spawn("-m", "zpush", "process")
        await everything_arrives()
        second = server.spawn("-m", "zpush", "process")
        await asyncio.to_thread(wait_until, lambda: shares(server) == [12, 12], "each holds half of the partitions")
        await everything_arrives()
        assert await asyncio.to_thread(end, first, signal.SIGTERM) == 0
        await everything_arrives()
        await asyncio.to_thread(wait_until, lambda: shares(server) == [24], "it has all")
    async with Api(server.api) as api:
        metrics = await api.metrics()
    assert await asyncio.to_thread(end, second, signal.SIGTERM) == 0
    assert Counter(line["event"] for line in server.lines())["processor has left"] == 2
    assert metrics.total("zpush_redelivered_total") == 0


async def counted(api: Api) -> tuple[float, float, float]:
    """Outcomes, taken, redelivered."""
    metrics = await api.metrics()
    outcomes = sum(metrics.total("zpush_messages_total", outcome=outcome) for outcome in COUNTED_OUTCOMES)
    return outcomes, metrics.total("zpush_taken_total"), metrics.total("zpush_redelivered_total")


async def drained(api: Api) -> bool:
    return (await api.metrics()).total("zpush_queue_lag_messages") == 0


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_a_processor_that_is_killed_or_stopped_amid_its_work(
    serve_kafka: ServeKafka, kafka: Kafka, spread: Spread, how: str
) -> None:
    """kill -9, or SIGSTOP beyond its session. Every message arrives, repeated ones say so, and the sums are exact."""
    server = serve_kafka("processor.instances=3")
    await asyncio.to_thread(wait_until, lambda: is_fair(shares(server)), "each has its share")
    devices = await spread(server, subprotocols=["zpush.v1"])
    rounds, each = 40, 25
    sent: dict[str, list[str]] = {device.client_id: [] for device in devices}
    received: dict[str, list[str]] = {device.client_id: [] for device in devices}

    async def listen(device: Device) -> None:
        """Until everything has come at least once."""
        ids = received[device.client_id]
        while len(set(ids)) < rounds * each:
            ids.append((await device.receive_json())["id"])

    async def push() -> None:
        async with pusher_for(kafka) as pusher:
            for number in range(rounds):
                pushes = [
                    Push(client=device.client_id, text="x", id=f"{device.client_id}.{number}.{n}")
                    for device in devices
                    for n in range(each)
                ]
                away = [Push(client=each_id, text="x", id=f"{each_id}.{number}") for each_id in ABSENT]
                assert await pusher.push_many(away) == [one.id for one in away]
                assert await pusher.push_many(pushes) == [one.id for one in pushes]
                for one in pushes:
                    assert one.client is not None and one.id is not None
                    sent[one.client].append(one.id)
                await asyncio.sleep(0.05)

    pushing = asyncio.create_task(push())
    await eventually(lambda: len(sent[devices[0].client_id]) > 5 * each)
    if how == "kill":
        pid = server.pid_of("processors", 1)
        halt(pid)  # amid its work: what it has taken by now, it will not finish
        await eventually(lambda: len(sent[devices[0].client_id]) > 10 * each)
        server.kill("processors", 1)
        await pushing
    else:
        with server.paused("processors", 1):
            await asyncio.to_thread(wait_until, lambda: shares_without(server, 1) == 24, "the others have it all", 30)
            await pushing
    for device in devices:
        await listen(device)
        assert list(dict.fromkeys(received[device.client_id])) == sent[device.client_id], "in order"
    async with Api(server.api) as api:
        await eventually(lambda: drained(api))
        outcomes, taken, redelivered = await counted(api)
    published = rounds * (2 * each + len(ABSENT))
    assert outcomes == taken + redelivered >= published
    assert taken <= published, "nothing is taken for the first time twice"
    doubles = sum(len(ids) - len(set(ids)) for ids in received.values())
    assert doubles <= redelivered, "each says so"
    assert redelivered > 0 or how == "stop", "it was killed amid its work"


def is_fair(shares: list[int]) -> bool:
    """Of each priority's 8 partitions three processors have 3, 3 and 2."""
    return len(shares) == 3 and sum(shares) == 24 and min(shares) >= 6


def shares_without(server: Server, slot: int) -> int:
    """What the other processors hold together."""
    pid = server.pid_of("processors", slot)
    held: dict[tuple[int, str], int] = {}
    for line in server.logged("partitions held"):
        held[line["pid"], line["priority"]] = line["held"]
    return sum(count for (owner, _), count in held.items() if owner != pid)


async def test_a_broker_that_is_away_at_the_start_and_dies_later(
    serve: Serve, broker: Broker, connect: Connect
) -> None:
    sets = settings_for(broker.url, "zpush")
    make_topics(sets)
    broker.kill()
    server = serve(*sets)
    assert server.logged("topics are not checked")
    device = await connect(server, "c1")
    async with Api(server.api) as api:
        status = server.status()
        assert status is not None and not any(each["queue_up"] for each in [*status["workers"], *status["processors"]])
        answer = await api.http.post("/v1/push", json={"to": {"client": "c1"}, "text": "x"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_unavailable")
        assert await api.direct("c1", "directly") == "delivered"
        assert await device.receive() == "directly"
        await asyncio.to_thread(broker.start)
        for times in range(2):

            async def taken(text: str = f"queued {times}") -> bool:  # refused as long as nobody has found the broker
                answer = await api.http.post("/v1/push", json={"to": {"client": "c1"}, "text": text})
                return answer.status_code == 202

            await eventually(taken, "a push is taken again", 60.0)
            await eventually(lambda: all(each["queue_up"] for each in _processes(server)), "all have found it")
            await device.receive_until(f"queued {times}")  # perhaps after the one before: its commit may be lost
            await asyncio.to_thread(broker.restart)


async def test_a_broker_that_is_killed_while_everything_flows(serve: Serve, broker: Broker, spread: Spread) -> None:
    """High and low at once, through two processors to both workers. Who stays connected has all, in order."""
    sets = settings_for(broker.url, "zpush")
    make_topics(sets)
    server = serve(*sets, "processor.instances=2")
    devices = await spread(server, subprotocols=["zpush.v1"])
    taken: dict[tuple[str, str], list[str]] = {}
    received: dict[tuple[str, str], list[str]] = {}
    ended = asyncio.Event()

    async def send(priority: Literal["high", "low"], device: Device) -> None:
        """One batch after the other, so that what is refused leaves no later one behind."""
        mine = taken[priority, device.client_id] = []
        async with Pusher(broker.url, queue=QueueLayout(prefix="zpush")) as pusher:
            while not ended.is_set():
                batch = [Push(client=device.client_id, text=priority, priority=priority) for _ in range(10)]
                mine += [each for each in await pusher.push_many(batch) if isinstance(each, str)]
                await asyncio.sleep(0.01)

    async def listen(device: Device) -> None:
        while True:
            pushed = json.loads(await device.connection.recv())
            received.setdefault((pushed["data"], device.client_id), []).append(pushed["id"])

    def count() -> int:
        return sum(map(len, received.values()))

    def missing() -> int:
        return sum(len(set(ids) - set(received.get(key, ()))) for key, ids in taken.items())

    listening = [asyncio.create_task(listen(device)) for device in devices]
    sending = [asyncio.create_task(send(p, device)) for p in _BOTH for device in devices]
    await eventually(lambda: count() > 500)
    broker.kill()
    await eventually(lambda: not any(each["queue_up"] for each in _processes(server)), "all have missed it")
    await asyncio.to_thread(broker.restart)
    await eventually(lambda: all(each["queue_up"] for each in _processes(server)), "all have found it", 60.0)
    before = count()
    await eventually(lambda: count() > before + 500, "it flows again", 60.0)
    ended.set()
    await asyncio.gather(*sending)
    await eventually(lambda: not missing(), "everything that was taken", 60.0)
    async with Api(server.api) as api:
        await eventually(lambda: drained(api), "everything is finished")
        outcomes, first, redelivered = await counted(api)
    for task in listening:
        task.cancel()
    assert outcomes == first + redelivered >= count()
    assert sum(len(ids) - len(set(ids)) for ids in received.values()) <= redelivered, "doubles say so"
    for key, ids in taken.items():
        mine = set(ids)
        assert [each for each in dict.fromkeys(received[key]) if each in mine] == ids, "in order"


async def test_a_registry_that_is_away_for_longer_than_a_message_is_tried(
    serve: Serve, kafka: Kafka, valkey: Valkey, spread: Spread
) -> None:
    """Who is connected stays so, and misses nothing: without a registry nobody can be called offline."""
    sets = settings_for(kafka.url, kafka.prefix)
    make_topics(sets)
    own = ["auth.mode=dev", "peers.secret=0123456789abcdef", "processor.retry=1s"]
    server = serve(*sets, f"registry.url={valkey.url}", *own)
    devices = await spread(server)
    texts: list[str] = []
    over = asyncio.Event()

    async def push() -> None:
        async with pusher_for(kafka) as pusher:
            while not over.is_set():
                texts.append(str(len(texts)))
                for result in await pusher.push_many(Push(client=d.client_id, text=texts[-1]) for d in devices):
                    assert isinstance(result, str)
                await asyncio.sleep(0.02)

    async def so_many_more(count: int) -> None:
        due = len(texts) + count
        await eventually(lambda: len(texts) >= due, f"{count} more are pushed")

    pushing = asyncio.create_task(push())
    await so_many_more(20)
    valkey.kill()
    await so_many_more(200)  # four seconds
    await asyncio.to_thread(valkey.start)
    await so_many_more(20)
    over.set()
    await pushing
    async with Api(server.api) as api:
        await eventually(lambda: drained(api), "everything has its outcome")
        assert (await api.metrics()).total("zpush_messages_total", outcome="offline") == 0
    for device in devices:
        assert await device.receive_all(len(texts)) == texts


_BOTH: tuple[Literal["high"], Literal["low"]] = ("high", "low")


def _processes(server: Server) -> list[dict[str, object]]:
    status = server.status()
    assert status is not None
    return [*status["workers"], *status["processors"]]


def test_a_server_refuses_to_start_without_topics(kafka: Kafka) -> None:
    own = ["registry.url=unix:///nowhere", "auth.mode=dev", "peers.secret=0123456789abcdef"]
    sets = [*settings_for(kafka.url, kafka.prefix), *own]
    done = run_zpush("process", *[part for each in sets for part in ("--set", each)])
    assert done.returncode == 1
    assert "zpush topics create" in done.stderr
