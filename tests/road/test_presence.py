"""What readers of presence events see: every way to come and go, on each back end, and a herd with nobody forgotten."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.kafka.fixtures import Kafka
from tests.queue.kafka_backend import read_all
from tests.road import herd
from tests.road.api import Api
from tests.road.crowd import upgrade
from tests.road.devices import Connect, Spread
from tests.road.server import Serve, Server
from tests.road.test_kafka import make_topics, settings_for
from tests.support import Valkey, eventually

Event = dict[str, Any]
PATIENCE_S = 60.0
COUNTED = "zpush_presence_events_total"


class Site:
    """A server with presence events on, and a reader of them."""

    def __init__(self, serve: Serve, queue: Kafka | Valkey, *sets: str) -> None:
        mine = ["queue.presence=true", "peers.region=eu", f"queue.url={queue.url}", *sets]
        self._queue = queue
        if isinstance(queue, Kafka):
            mine += settings_for(queue.url, queue.prefix)
            make_topics(mine)
        self.server: Server = serve(*mine)

    def events(self) -> list[Event]:
        """All so far; those of one client in their order."""
        if isinstance(self._queue, Kafka):
            records = read_all(self._queue.bootstrap, f"{self._queue.prefix}.presence")
            return [json.loads(record.value()) for record in records]
        with redis.Redis.from_url(self._queue.url) as valkey:
            return [json.loads(fields[b"payload"]) for _, fields in valkey.xrange("zpush.presence")]

    async def of(self, client: str, count: int) -> list[Event]:
        """The client's, once there are so many."""

        async def found() -> list[Event] | None:
            events = [each for each in await asyncio.to_thread(self.events) if each["client"] == client]
            return events if len(events) >= count else None

        events = await eventually(found, f"{count} events of {client}", PATIENCE_S)
        assert events is not None and len(events) == count, events
        return events


@pytest.fixture(params=["valkey", "kafka"], ids=["streams", "kafka"])
def make_site(request: pytest.FixtureRequest, serve: Serve) -> Callable[..., Site]:
    """make_site(*overrides)"""
    queue = request.getfixturevalue(request.param)
    return lambda *sets: Site(serve, queue, *sets)


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


def online(events: list[Event]) -> dict[str, bool]:
    """As docs/presence.md tells readers to: an older epoch says nothing, of equal ones the later does."""
    last: dict[str, Event] = {}
    for each in events:
        client = each["client"]
        if client not in last or each["epoch"] >= last[client]["epoch"]:
            last[client] = each
    return {client: each["event"] == "connected" for client, each in last.items()}


def story(events: list[Event]) -> list[tuple[str, int]]:
    return [(each["event"], each.get("code", 0)) for each in events]


async def test_who_comes_and_goes_is_told(site: Site, connect: Connect) -> None:
    """A closing handshake, a cut line, an operator's word."""
    polite = await connect(site.server, "polite", "ann")
    async with Api(site.server.api) as api:
        where = await api.get("/v1/clients/polite")
    [came] = await site.of("polite", 1)
    assert came.pop("time_ms") >= came["epoch"]
    expected = {"event": "connected", "client": "polite", "user": "ann", "node": where["node"], "region": "eu"}
    assert came == {**expected, "epoch": where["epoch"]}
    await polite.close()
    gone = (await site.of("polite", 2))[1]
    assert (gone["event"], gone["code"], gone["epoch"], gone["user"]) == ("disconnected", 1000, came["epoch"], "ann")

    host, port = site.server.clients.rsplit(":", 1)
    rude = herd.ask((host, int(port)), upgrade("rude"))
    herd.opened([rude])
    await site.of("rude", 1)
    herd.reset([rude])
    assert story(await site.of("rude", 2)) == [("connected", 0), ("disconnected", 1006)]

    shown = await connect(site.server, "shown out")
    async with Api(site.server.api) as api:
        await api.http.delete("/v1/clients/shown out")
        assert await shown.close_code() == 4005
        assert story(await site.of("shown out", 2)) == [("connected", 0), ("disconnected", 4005)]
        metrics = await api.until_counted(COUNTED, 3, event="disconnected", result="written")
        assert metrics.total(COUNTED, event="connected", result="written") == 3
        assert metrics.total(COUNTED, result="lost") == 0
    assert set(online(await asyncio.to_thread(site.events)).values()) == {False}


async def test_who_is_replaced_goes_with_the_lower_epoch(site: Site, connect: Connect) -> None:
    """Twenty times, so on the same worker and across workers."""
    devices = [await connect(site.server, "again")]
    for _ in range(20):
        devices.append(await connect(site.server, "again"))
        assert await devices[-2].close_code() == 4002
    events = await site.of("again", 41)
    # Two workers write: epochs tell the order, not their places.
    came = sorted(each["epoch"] for each in events if each["event"] == "connected")
    gone = sorted(each["epoch"] for each in events if each["event"] == "disconnected")
    assert len(set(came)) == 21 and gone == came[:-1]
    assert {each["code"] for each in events if each["event"] == "disconnected"} == {4002}
    assert len({each["node"] for each in events}) == 2, "the kernel spreads them"
    assert online(events) == {"again": True}


async def test_clients_of_a_killed_worker_expire_when_they_are_missed(
    site: Site, spread: Spread, connect: Connect
) -> None:
    """By a message, direct or queued, or by coming back; each once."""
    server = site.server
    victim, survivor = await spread(server)
    async with Api(server.api) as api:
        others: list[str] = []
        for number in range(64):
            device = await connect(server, f"other-{number}")
            if await api.worker_of(device.client_id) == 0:
                others.append(device.client_id)
            if len(others) == 2:
                break
    epochs = {each: (await site.of(each, 1))[0]["epoch"] for each in (victim.client_id, survivor.client_id)}
    server.kill("workers", 0)
    server.until_ready(restarts=1)
    async with Api(server.api) as api:
        assert await api.direct(victim.client_id, "are you there?") == "offline"
        for _ in range(3):
            await api.push({"client": victim.client_id}, text="nobody")
        await api.push({"client": others[0]}, text="queued")
        again = await connect(server, others[1])
        assert await api.direct(survivor.client_id, "and you?") == "delivered"
        await api.until_counted(COUNTED, 3, event="expired", result="written")
    came, expired = await site.of(victim.client_id, 2)
    assert (expired["event"], expired["epoch"]) == ("expired", epochs[victim.client_id])
    assert expired["node"] == came["node"] and expired["region"] == "eu"
    back = [each for each in await site.of(again.client_id, 3) if each["node"] != came["node"]]
    assert [each["event"] for each in back] == ["connected"]
    events = await asyncio.to_thread(site.events)
    now = online(events)
    assert not now[victim.client_id] and not now[others[0]] and now[again.client_id] and now[survivor.client_id]


async def test_the_last_words_of_a_server_that_ends_are_written(make_site: Callable[..., Site]) -> None:
    """Clients that leave meanwhile, and some that never answer its close frame."""
    site = make_site("server.drain_window=0s")
    host, port = site.server.clients.rsplit(":", 1)
    names = [*herd.names(200)]
    socks = [herd.ask((host, int(port)), upgrade(name)) for name in names]
    herd.opened(socks)
    stopping = asyncio.create_task(asyncio.to_thread(site.server.stop, signal.SIGTERM, PATIENCE_S))
    for sock in socks[:100]:
        sock.sendall(herd.GOODBYE)
    assert await stopping == 0
    events = await asyncio.to_thread(site.events)
    assert Counter(each["event"] for each in events) == {"connected": 200, "disconnected": 200}
    assert online(events) == dict.fromkeys(names, False)
    for sock in socks:
        sock.close()


async def test_a_herd_is_told_to_the_last(site: Site) -> None:
    """15,000 in four ways. What is told agrees with what the workers counted themselves."""
    host, port = site.server.clients.rsplit(":", 1)
    address = host, int(port)
    ways = {herd.cleanly: 6000, herd.abruptly: 5000, herd.by_reset: 3000, herd.replaced: 1000}
    for way, many in ways.items():
        await asyncio.to_thread(herd.in_waves, many, lambda count, way=way: way(address, count))
    async with Api(site.server.api) as api:

        async def all_gone() -> bool:
            metrics = await api.metrics()
            gone = metrics.total("zpush_closes_total")
            return (
                metrics.total("zpush_connections") == 0
                and gone == metrics.total("zpush_handshakes_total", result="ok")
                and metrics.total(COUNTED, event="disconnected", result="written") == gone
            )

        await eventually(all_gone, "all have gone, and that is told", PATIENCE_S)
        metrics = await api.metrics()
        closes = {
            code: metrics.total("zpush_closes_total", code=str(code)) for code in (1000, 1001, 1002, 1005, 1006, 4002)
        }
    assert metrics.total(COUNTED, result="lost") == 0
    events = await asyncio.to_thread(site.events)
    counted = Counter(each["event"] for each in events)
    assert counted["disconnected"] >= 12_000 and counted["expired"] == 0
    ends = Counter(each["code"] for each in events if each["event"] == "disconnected")
    assert {code: float(ends[code]) for code in closes} == closes
    assert set(online(events).values()) == {False}
    # Those called "whole" come all at once, and take over the epochs of others that went before they were open.
    came = {(each["client"], each["epoch"]) for each in events if each["event"] == "connected"}
    gone = {(each["client"], each["epoch"]) for each in events if each["event"] == "disconnected"}
    assert {client for client, _ in came - gone} <= {"whole"}
