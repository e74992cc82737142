"""Slow consumers delay nobody: what is for others arrives while what is for them still waits.

No clock is read. A message to a slow consumer stays without an outcome until it reads or is given up, after 30 s; so
whatever is delivered before that was not held up by it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.road.api import Api
from tests.road.crowd import upgrade
from tests.road.devices import Connect, Device, Spread
from tests.road.raw import Raw
from tests.road.server import Serve, Server
from tests.support import eventually
from zpush.queue.layout import Layout

BULK = "x" * 60_000  # more than the kernel takes for a client that does not read, less than the high-water mark
LAYOUT = Layout("zpush", 8)
ROUNDS = 200


@pytest.fixture
async def stuck(server: Server, name: str) -> AsyncIterator[list[str]]:
    """Ids of clients that do not read; some on each worker."""
    ids = [f"{name}-stuck{number}" for number in range(12)]
    clients = [await Raw.open(server, upgrade(client_id), receive_bytes=4096) for client_id in ids]
    yield ids
    for client in clients:
        client.reset()


async def closed_as_slow(api: Api) -> float:
    return (await api.metrics()).total("zpush_closes_total", code="4004")


async def test_direct_pushes_to_others_are_answered_meanwhile(
    server: Server, api: Api, spread: Spread, stuck: list[str]
) -> None:
    settled = await spread(server)
    apis = [Api(server.api) for _ in stuck]
    waiting = [asyncio.create_task(each.direct(client, BULK)) for each, client in zip(apis, stuck, strict=True)]
    for number in range(ROUNDS):
        for device in settled:
            assert await api.direct(device.client_id, str(number)) == "delivered"
    for device in settled:
        assert await device.receive_all(ROUNDS) == [str(number) for number in range(ROUNDS)]
    assert not any(task.done() for task in waiting), "the slow ones are still waited for"
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for each in apis:
        await each.__aexit__()


async def test_queued_messages_to_others_arrive_meanwhile(
    server: Server, api: Api, spread: Spread, stuck: list[str]
) -> None:
    """In one batch, of one priority, one behind the other."""
    settled = await spread(server)
    before = await api.metrics()
    bulk = [json.dumps({"to": {"client": client_id}, "text": BULK}) for client_id in stuck]
    small = [json.dumps({"to": {"client": d.client_id}, "text": str(n)}) for n in range(ROUNDS) for d in settled]
    status, answers = await api.batch([*bulk, *small])
    assert status == 200
    assert all(answer["queued"] for answer in answers)
    for device in settled:
        assert await device.receive_all(ROUNDS) == [str(number) for number in range(ROUNDS)]
    metrics = await api.until_counted("zpush_messages_total", before.total("zpush_messages_total") + len(small))
    assert metrics.total("zpush_messages_total", outcome="dropped") == before.total(
        "zpush_messages_total", outcome="dropped"
    )
    assert metrics.total("zpush_closes_total", code="4004") == before.total("zpush_closes_total", code="4004")


async def test_a_new_processor_gets_its_share_meanwhile(serve: Serve, connect: Connect) -> None:
    """Each stream has a message that cannot be finished. It is handed over all the same, and others go on in it."""
    server = serve("connections.unsent_age=5m")  # a new process may take its time
    slow = [await Raw.open(server, upgrade(client_id), receive_bytes=4096) for client_id in one_per_stream("slow")]
    settled = [await connect(server, client_id) for client_id in one_per_stream("settled")]
    async with Api(server.api) as api:
        for client_id in one_per_stream("slow"):
            await api.push({"client": client_id}, text=BULK)

        async def all_under_way() -> bool:
            return (await api.metrics()).total("zpush_in_flight_messages") == len(slow)

        await eventually(all_under_way, "each slow client's message waits in a write buffer")
        server.spawn("-m", "zpush", "process")
        numbers = itertools.count()

        async def shared() -> bool:
            await push_to_each(api, settled, next(numbers))
            return server.shares() == [12, 12]

        await eventually(shared, "the newcomer has its half of the 24 streams")
        assert await closed_as_slow(api) == 0, "it took until they were given up"
        last = next(numbers)
        await push_to_each(api, settled, last)
        for device in settled:
            received = await device.receive_until(str(last))
            assert list(dict.fromkeys(received)) == [str(number) for number in range(last + 1)]
        assert await closed_as_slow(api) == 0, "somebody waited for them"
    for client in slow:
        opcode, payload = await client.frame()
        assert (opcode, payload.decode()) == (1, BULK)
        client.reset()


def one_per_stream(name: str) -> Iterator[str]:
    """An id for each of the eight streams of a priority."""
    for partition in range(LAYOUT.partitions):
        ids = (f"{name}{number}" for number in itertools.count())
        yield next(client_id for client_id in ids if LAYOUT.partition_of(client_id) == partition)


async def push_to_each(api: Api, devices: list[Device], number: int) -> None:
    lines = [json.dumps({"to": {"client": device.client_id}, "text": str(number)}) for device in devices]
    status, _ = await api.batch(lines)
    assert status == 200
