"""The invariant: 100,000 pushes to clients of every kind, processes killed on the way, and each one accounted for.

First a calm part in which every number must be exact, then one in which a worker and a processor die under load.
What may differ then is what at-least-once allows: a message read again after its processor's death counts twice, as
an outcome and as redelivered. Clients of the dead worker are offline until they are back; all others notice nothing.
A push to a user is a message to each of its clients, so there are more messages than pushes.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest
import redis

from tests.road.api import Api, Metrics
from tests.road.crowd import Client, Got, payload
from tests.road.server import Serve, Server
from tests.support import eventually
from zpush.protocol.message import Priority

CALM, STORMY = 40_000, 60_000
LINES = 500  # a request; clients come and go between two requests
TO_USERS = 0.1  # of all pushes
PRIORITIES = [p.label for p in Priority]
SMALL_BUFFER = 4096
BULK_BYTES = 60_000  # more than the kernel takes for a client that does not read, less than the high-water mark
SETTINGS = (
    "processor.instances=2",
    "registry.node_ttl=4s",  # for so long after its start a processor is not sure who is offline
    "connections.unsent_bytes=64KiB",
    "connections.keepalive=5m",
)
DRAINED_S = 40.0  # a killed processor's streams are taken over after 6 s


class Crowd:
    """Every kind of client, by what it does."""

    def __init__(self, server: Server) -> None:
        def some(kind: str, count: int, receive_bytes: int = 0) -> list[Client]:
            return [Client(server.clients, f"{kind}{n}", receive_bytes) for n in range(count)]

        self.steady = [Client(server.clients, f"steady{n}", user=f"user{n // 2}") for n in range(200)]
        self.slow = some("slow", 20, SMALL_BUFFER)  # stop reading for a while
        self.stuck = some("stuck", 10, SMALL_BUFFER)  # never read while messages come
        self.offline = some("offline", 40)
        self.moving = some("moving", 40)  # leave, and come back
        self.replaced = some("replaced", 40)  # hand over hand
        self.all = [*self.steady, *self.slow, *self.stuck, *self.offline, *self.moving, *self.replaced]
        self.pairs = [*zip(self.steady[::2], self.steady[1::2], strict=True)]  # of one user each
        self.bytes = {client: 300 for client in self.slow} | {client: 3000 for client in self.stuck}

    async def arrive(self) -> None:
        there = [*self.steady, *self.slow, *self.stuck, *self.moving, *self.replaced]
        await asyncio.gather(*(client.stay() for client in there))
        self.read(self.stuck, False)

    async def found(self, api: Api) -> None:
        """Until nobody who is there would be called offline: on a busy machine some are let in before their lease."""
        for client in self.all:
            if client.is_open:
                await eventually(lambda client=client: api.holds(client.id), f"{client.id} can be found")

    async def stir(self, step: int) -> None:
        """Between two requests: every fourth of those who move does so, and half of the slow ones change their mind."""
        moving, replaced = self.moving[step % 4 :: 4], self.replaced[step % 4 :: 4]
        await asyncio.gather(
            *(client.current.leave() if client.is_open else client.open() for client in moving),
            *(client.open() for client in replaced),
            *(client.stay() for client in [*self.steady, *self.slow] if not client.is_open),
        )
        if step % 10 == 0:
            half = step // 10 % 2
            self.read(self.slow[half::2], False)
            self.read(self.slow[1 - half :: 2], True)

    def read(self, clients: Iterable[Client], on: bool) -> None:
        for client in clients:
            if client.is_open and on != client.current.transport.is_reading():
                (client.current.transport.resume_reading if on else client.current.transport.pause_reading)()

    @property
    def copies(self) -> int:
        return sum(len(connection.got) for client in self.all for connection in client.connections)

    def close(self) -> None:
        for client in self.all:
            for connection in client.connections:
                connection.transport.abort()


class Sent:
    """What was published, by client: each message's priority and number, and which of them could expire."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._random = random.Random(20)
        self._numbers = itertools.count()
        self.by_client: dict[Client, list[Got]] = defaultdict(list)
        self.short_lived: set[int] = set()
        self.pushes = 0

    def lines(self, count: int) -> list[str]:
        return [self._to_user() if self._random.random() < TO_USERS else self._to_client() for _ in range(count)]

    def bulk(self, client: Client) -> str:
        """What cannot be delivered while it does not read."""
        return self._push({"client": client.id}, [client], Priority.NORMAL, BULK_BYTES)

    def _to_client(self) -> str:
        client = self._random.choice(self._crowd.all)
        ttl = {"ttl": "1ms"} if self._random.random() < 0.05 else {}
        size = self._crowd.bytes.get(client, 0)
        return self._push({"client": client.id}, [client], self._random.randrange(3), size, **ttl)

    def _to_user(self) -> str:
        pair = self._random.choice(self._crowd.pairs)
        return self._push({"user": pair[0].user}, pair, self._random.randrange(3))

    def _push(self, to: dict[str, str], clients: Sequence[Client], priority: int, size: int = 0, **ttl: str) -> str:
        number = next(self._numbers)
        self.pushes += 1
        if ttl:
            self.short_lived.add(number)
        for client in clients:
            self.by_client[client].append(Got(priority, number, "user" in to))
        [name] = to.values()
        text = payload(name, priority, number, size)
        return json.dumps({"to": to, "text": text, "priority": PRIORITIES[priority], "id": str(number), **ttl})

    @property
    def messages(self) -> int:
        """(push, client), if every client is there."""
        return sum(map(len, self.by_client.values()))

    def missed(self, client: Client) -> set[int]:
        """Numbers that should have arrived and have not."""
        return {each.number for each in self.by_client[client]} - self.short_lived - numbers(client.got)


def numbers(got: Iterable[Got]) -> set[int]:
    return {each.number for each in got}


def inversions(got: Sequence[Got]) -> int:
    """How often a message came for the first time behind a younger one of its priority."""
    highest, seen, count = defaultdict[tuple[int, bool], int](int), set(), 0
    for priority, number, for_user in got:
        if number in seen:
            continue
        seen.add(number)
        count += number < highest[priority, for_user]
        highest[priority, for_user] = max(highest[priority, for_user], number)
    return count


@asynccontextmanager
async def survivor(server: Server, victim: int) -> AsyncIterator[Api]:
    """The API through a worker that is not the victim: whoever answers while that one is stopped."""
    for _ in range(64):
        async with Api(server.api) as api:
            with server.paused("workers", victim):
                try:
                    await api.http.get("/healthz", timeout=1.0)
                except httpx.TimeoutException:
                    continue
            yield api
            return
    raise AssertionError("every connection went to the victim")


async def publish(api: Api, crowd: Crowd, sent: Sent, steps: Iterator[int], count: int) -> None:
    for step in itertools.islice(steps, count // LINES):
        await asyncio.gather(queue(api, sent.lines(LINES)), crowd.stir(step))


async def queue(api: Api, lines: Sequence[str]) -> None:
    status, answers = await api.batch(lines)
    assert status == 200
    assert all(answer.get("queued") for answer in answers), answers[:3]


async def fill_hands(server: Server, api: Api, crowd: Crowd, sent: Sent) -> None:
    """A message to each stuck client waits in its write buffer. They are of all partitions: each processor has some."""
    for client in crowd.stuck:
        if client.is_open:
            client.current.tear()
    crowd.read(crowd.slow, True)
    await until_drained(server)
    await asyncio.gather(*(client.stay() for client in crowd.stuck))
    crowd.read(crowd.stuck, False)
    await queue(api, [sent.bulk(client) for client in crowd.stuck])

    async def held() -> bool:
        return (await api.metrics()).total("zpush_in_flight_messages") == len(crowd.stuck)

    await eventually(held, "each stuck client's message waits")


class Totals:
    def __init__(self, metrics: Metrics) -> None:
        self.taken = metrics.total("zpush_taken_total")
        self.redelivered = metrics.total("zpush_redelivered_total")
        self.published = metrics.total("zpush_published_total")
        self.outcomes = metrics.total("zpush_messages_total")
        self.by_outcome = {
            outcome: metrics.total("zpush_messages_total", outcome=outcome)
            for outcome in ("delivered", "offline", "expired", "dropped", "rejected", "rate_limited")
        }
        self.by_priority = {p: metrics.total("zpush_messages_total", priority=p) for p in PRIORITIES}


async def until_drained(server: Server) -> None:
    """No record is left in any stream: each was forgotten after its last outcome was known."""
    with redis.Redis.from_url(server.queue_url) as valkey:
        streams = [f"zpush.{priority}.{n}" for priority in PRIORITIES for n in range(8)]

        def empty() -> bool:
            return not sum(valkey.xlen(stream) for stream in streams)

        await eventually(empty, "every record is finished", DRAINED_S)
        assert valkey.xlen("zpush.dead") == 0


async def at_rest(api: Api) -> Totals:
    """The processors tell what they hold twice a second."""

    async def idle() -> Metrics | None:
        metrics = await api.metrics()
        return metrics if metrics.total("zpush_in_flight_messages") == 0 else None

    metrics = await eventually(idle, "no processor holds a message")
    assert metrics is not None
    return Totals(metrics)


@pytest.mark.slow
async def test_every_message_is_accounted_for(serve: Serve) -> None:
    server = serve(*SETTINGS)
    crowd = Crowd(server)
    sent = Sent(crowd)
    steps = itertools.count()
    try:
        async with survivor(server, 1) as api:
            await crowd.arrive()
            await crowd.found(api)
            # No hand-over is under way that would redeliver.
            await eventually(lambda: server.shares() == [12, 12], "each processor holds its half of the 24 streams")
            await publish(api, crowd, sent, steps, CALM)
            await calm(server, api, crowd, sent)
            await asyncio.gather(*(client.stay() for client in crowd.stuck))
            crowd.read(crowd.stuck, False)
            await publish(api, crowd, sent, steps, STORMY // 3)
            server.kill("workers", 1)
            await publish(api, crowd, sent, steps, STORMY // 3)
            await fill_hands(server, api, crowd, sent)
            await publish(api, crowd, sent, steps, LINES)
            server.kill("processors", 0)
            await publish(api, crowd, sent, steps, STORMY // 3)
            await stormy(server, api, crowd, sent)
    finally:
        crowd.close()


async def calm(server: Server, api: Api, crowd: Crowd, sent: Sent) -> None:
    """Nobody died: every number is exact, and every client has its order."""
    crowd.read(crowd.slow, True)
    await until_closed(api, len(crowd.stuck))
    crowd.read(crowd.stuck, True)
    await asyncio.gather(*(client.current.until_ended() for client in crowd.stuck))
    await until_drained(server)
    totals = await at_rest(api)
    assert totals.published == sent.pushes
    assert totals.taken == totals.outcomes == sent.messages
    assert totals.redelivered == 0
    by_priority = Counter(PRIORITIES[each.priority] for got in sent.by_client.values() for each in got)
    assert totals.by_priority == by_priority
    assert totals.by_outcome["expired"] <= len(sent.short_lived)
    assert totals.by_outcome["dropped"] > 0 < totals.by_outcome["expired"]
    assert totals.by_outcome["rejected"] == totals.by_outcome["rate_limited"] == 0
    delivered = totals.by_outcome["delivered"]
    await eventually(lambda: crowd.copies >= delivered, "what was delivered is read")
    assert crowd.copies == delivered, "delivered is what the clients got, no more and no less"
    for client in [*crowd.steady, *crowd.slow, *crowd.replaced]:
        assert client.stayed, client.id
        assert not sent.missed(client), client.id
    for client in crowd.all:
        assert len(numbers(client.got)) == len(client.got), f"{client.id} got something twice"
        assert not inversions(client.got), client.id
        assert not any(connection.foreign for connection in client.connections)


async def until_closed(api: Api, count: int) -> None:
    """So many slow consumers were told to go."""

    async def closed() -> bool:
        return (await api.metrics()).total("zpush_closes_total", code="4004") == count

    await eventually(closed, f"{count} slow consumers are closed", DRAINED_S)


async def stormy(server: Server, api: Api, crowd: Crowd, sent: Sent) -> None:
    crowd.read([*crowd.slow, *crowd.stuck], True)
    server.until_ready(restarts=2)
    await until_drained(server)
    totals = await at_rest(api)
    assert totals.published == sent.pushes
    assert totals.outcomes == totals.taken + totals.redelivered
    assert sent.pushes <= totals.outcomes <= sent.messages + totals.redelivered
    assert totals.redelivered > 0, "the processor died with nothing in its hands: nothing was shown"
    assert totals.taken <= sent.messages
    assert totals.by_outcome["rejected"] == totals.by_outcome["rate_limited"] == 0
    there = [client for client in [*crowd.steady, *crowd.slow, *crowd.replaced] if client.stayed]
    assert len(there) > 50, "hardly anybody was on the other worker"
    assert len(there) < len(crowd.steady) + len(crowd.slow) + len(crowd.replaced), "nobody was on the dead worker"
    for client in there:
        await eventually(lambda client=client: not sent.missed(client), f"{client.id} misses nothing")
        assert not inversions(client.got), client.id
    late = 0
    for client in crowd.all:
        assert numbers(client.got) <= numbers(sent.by_client[client])
        assert not any(connection.foreign for connection in client.connections)
        late += inversions(client.got)
    assert late <= totals.redelivered, "only what was read again may be late"
