"""What is said of clients stands in line until the queue's server has it: in order, bounded, holding up nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from tests.support import Valkey, eventually
from zpush.config.settings import Queue
from zpush.delivery import presence
from zpush.delivery.presence import BATCH, Presence
from zpush.queue.open import open_presence_writer
from zpush.registry.base import Lease
from zpush.scoreboard import Row, Scoreboard

ROOM = 100_000
PATIENCE_S = 60.0


class Desk:
    """A Presence over a real Valkey, and what lies there."""

    def __init__(self, valkey: Valkey, room: int = ROOM) -> None:
        self.valkey = valkey
        self.redis = Redis.from_url(valkey.url)
        self.row: Row = Scoreboard().rows[1]
        self.presence = Presence(open_presence_writer(Queue(), valkey.url), "eu", room, self.row)
        self.presence.start()

    async def stop(self) -> None:
        await self.presence.stop()
        await self.redis.aclose()

    async def told(self) -> list[tuple[str, str, int]]:
        """(event, client, epoch) each."""
        entries = await self.redis.xrange("zpush.presence")
        events = [json.loads(fields[b"payload"]) for _, fields in entries]
        return [(each["event"], each["client"], each["epoch"]) for each in events]

    def count(self, result: str, *events: str) -> int:
        return sum(self.row.get(f"presence_{event}_{result}") for event in events or presence_events())

    async def written(self, count: int) -> None:
        await eventually(lambda: self.count("written") == count, f"{count} events are written", PATIENCE_S)


def presence_events() -> tuple[str, ...]:
    return ("connected", "disconnected", "expired")


def lease(client: str, epoch: int = 5) -> Lease:
    return Lease(client, "node", epoch, "ann")


@pytest.fixture
async def desk(valkey: Valkey) -> AsyncIterator[Desk]:
    it = Desk(valkey)
    yield it
    await it.stop()


async def test_each_event_tells_what_it_is(desk: Desk) -> None:
    desk.presence.connected(lease("a"))
    desk.presence.disconnected(lease("a"), 1006)
    desk.presence.expired(lease("b", 6))
    await desk.written(3)
    entries = await desk.redis.xrange("zpush.presence")
    events = [json.loads(fields[b"payload"]) for _, fields in entries]
    times = [each.pop("time_ms") for each in events]
    assert times == sorted(times) and times[0] > 1_600_000_000_000
    common = {"node": "node", "region": "eu", "user": "ann"}
    assert events == [
        {"event": "connected", "client": "a", "epoch": 5, **common},
        {"event": "disconnected", "client": "a", "epoch": 5, "code": 1006, **common},
        {"event": "expired", "client": "b", "epoch": 6, **common},
    ]
    assert [desk.count("written", each) for each in presence_events()] == [1, 1, 1]


async def test_a_herd_in_one_turn_holds_up_nobody_and_loses_nothing(desk: Desk) -> None:
    """The loop turns many times until they are written, a batch at a time."""
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        if desk.count("written") < 30_000:
            asyncio.get_running_loop().call_soon(turn)

    for number in range(15_000):
        desk.presence.disconnected(lease(f"c{number}", 1), 1001)
        desk.presence.connected(lease(f"c{number}", 2))
    turn()
    await desk.written(30_000)
    assert turns > 2 * 30_000 / BATCH
    told = await desk.told()
    assert told[::2] == [("disconnected", f"c{number}", 1) for number in range(15_000)]
    assert told[1::2] == [("connected", f"c{number}", 2) for number in range(15_000)]


async def test_what_is_said_while_the_server_is_away_is_written_when_it_is_back(desk: Desk) -> None:
    desk.presence.connected(lease("before"))
    await desk.written(1)
    desk.valkey.kill()
    for number in range(1200):
        desk.presence.connected(lease(f"c{number}"))
    desk.valkey.restart()
    await desk.written(1201)
    clients = [client for _, client, _ in await desk.told()]
    assert list(dict.fromkeys(clients)) == ["before", *(f"c{number}" for number in range(1200))]
    assert desk.count("lost") == 0


async def test_what_the_server_refuses_waits_until_that_is_mended(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    await desk.redis.set("zpush.presence", "a string")
    desk.presence.connected(lease("a"))
    await eventually(lambda: "presence events wait" in caplog.text)
    await desk.redis.delete("zpush.presence")
    await desk.written(1)
    assert await desk.told() == [("connected", "a", 5)]


async def test_past_the_room_the_oldest_is_lost_and_counted(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(valkey, room=10)
    desk.valkey.kill()
    for number in range(25):
        desk.presence.connected(lease(f"c{number}"))
    assert desk.count("lost", "connected") == 15
    assert "presence events are lost" in caplog.text
    desk.valkey.restart()
    await desk.written(10)
    assert [client for _, client, _ in await desk.told()] == [f"c{number}" for number in range(15, 25)]
    await desk.stop()


async def test_the_last_events_are_written_before_the_end(valkey: Valkey) -> None:
    desk = Desk(valkey)
    for number in range(5000):
        desk.presence.disconnected(lease(f"c{number}"), 1001)
    await desk.presence.stop()
    assert len(await desk.told()) == desk.count("written") == 5000
    await desk.redis.aclose()


async def test_the_end_waits_no_longer_for_a_server_that_is_away(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "STOP_S", 0.1)
    desk = Desk(valkey)
    desk.presence.connected(lease("before"))
    await desk.written(1)
    valkey.kill()
    for number in range(700):
        desk.presence.disconnected(lease(f"c{number}"), 1001)
    await desk.stop()
    assert desk.count("lost", "disconnected") == 700, "those of the batch under way, too"
