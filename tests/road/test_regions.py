"""Three regions, each with a broker, a registry and a MirrorMaker: a client of one is reached from every other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.kafka.fixtures import need_java
from tests.kafka.regions import Region, Regions
from tests.road.api import Api
from tests.road.devices import Connect
from tests.support import eventually
from zpush.protocol.message import Priority
from zpush.queue import kafka_names

OWN = {kafka_names.topic("zpush", priority) for priority in Priority}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def regions() -> Iterator[Regions]:
    need_java()
    regions = Regions()
    try:
        regions.start()
        yield regions
    finally:
        regions.stop()


@pytest.fixture
async def apis(regions: Regions) -> AsyncIterator[dict[str, Api]]:
    async with contextlib.AsyncExitStack() as stack:
        yield {r.name: await stack.enter_async_context(Api(r.server.api)) for r in regions.all}


async def counted(api: Api) -> dict[str, float]:
    metrics = await api.metrics()
    outcomes = ("delivered", "offline", "elsewhere")
    found = {outcome: metrics.total("zpush_messages_total", outcome=outcome) for outcome in outcomes}
    return {**found, "taken": metrics.total("zpush_taken_total")}


async def test_a_push_in_one_region_arrives_in_another(
    regions: Regions, apis: dict[str, Api], connect: Connect
) -> None:
    device = await connect(regions.asia.server, "in-asia")
    await apis["us"].push({"client": "in-asia"}, text="hello")
    assert await device.receive() == "hello"
    await apis["us"].until_counted("zpush_messages_total", 1, outcome="offline")
    await apis["eu"].until_counted("zpush_messages_total", 1, outcome="elsewhere")
    await apis["asia"].until_counted("zpush_messages_total", 1, outcome="delivered")
    assert await counted(apis["us"]) == {"delivered": 0, "offline": 1, "elsewhere": 0, "taken": 1}
    assert await counted(apis["eu"]) == {"delivered": 0, "offline": 0, "elsewhere": 1, "taken": 0}
    assert await counted(apis["asia"]) == {"delivered": 1, "offline": 0, "elsewhere": 0, "taken": 1}


def test_nothing_but_messages_is_copied(regions: Regions) -> None:
    """Not the dead letters, and no copy of a copy."""
    for region in regions.all:
        assert {"zpush.dead", *region.copied} == {name for name in region.topics if "zpush" in name} - OWN
        assert region.topics >= OWN


async def test_a_region_that_was_cut_off_misses_nothing_and_gets_nothing_twice(
    regions: Regions, apis: dict[str, Api], connect: Connect
) -> None:
    in_eu = await connect(regions.eu.server, "in-eu")
    in_asia = await connect(regions.asia.server, "in-asia-too")
    texts = [str(n) for n in range(100)]

    async def push(region: Region, client_id: str, some: list[str]) -> None:
        for text in some:
            await apis[region.name].push({"client": client_id}, text=f"{region.name} {text}")

    regions.eu.cut_off()
    try:
        await apis["us"].push({"client": "in-eu"}, text="too late by then", ttl=1)
        begin_s = time.monotonic()
        await push(regions.us, "in-eu", texts)
        await push(regions.eu, "in-asia-too", texts)
        await push(regions.us, "in-asia-too", texts)  # these two regions notice nothing
        assert await in_asia.receive_all(100) == [f"us {text}" for text in texts]
        await push(regions.eu, "in-eu", ["is at home"])
        assert await in_eu.receive() == "eu is at home"
        await eventually(lambda: time.monotonic() > begin_s + 1, "the first one is over")
    finally:
        regions.eu.come_back()
    assert await in_eu.receive_all(100) == [f"us {text}" for text in texts]
    assert await in_asia.receive_all(100) == [f"eu {text}" for text in texts]
    await apis["eu"].until_counted("zpush_messages_total", 1, outcome="expired")
    for region, client_id, device in ((regions.us, "in-eu", in_eu), (regions.eu, "in-asia-too", in_asia)):
        await push(region, client_id, ["the end"])
        assert await device.receive() == f"{region.name} the end"
