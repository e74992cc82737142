"""Whose lease is written is told to be connected, with the epoch that the registry has; nobody else is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.server.lease_world import EPOCH, Worker, lease_world
from tests.support import Valkey, eventually
from zpush.config.settings import Queue
from zpush.config.settings import Registry as Settings
from zpush.delivery.presence import Presence
from zpush.queue.open import open_presence_writer
from zpush.registry.base import Lease
from zpush.scoreboard import Scoreboard

SETTINGS = Settings(lease_ttl_s=2.0, node_ttl_s=1.0, repair_rate=100)


@pytest.fixture
async def worker(valkey: Valkey) -> AsyncIterator[Worker]:
    presence = Presence(open_presence_writer(Queue(), valkey.url), "eu", 1000, Scoreboard().rows[1])
    presence.start()
    async with lease_world(valkey, SETTINGS, presence) as it:
        yield it
    await presence.stop()


async def told(valkey: Valkey) -> list[dict[str, Any]]:
    async with Redis.from_url(valkey.url) as redis:
        return [json.loads(fields[b"payload"]) for _, fields in await redis.xrange("zpush.presence")]


async def until_told(valkey: Valkey, client: str, epoch: int) -> None:
    async def is_told() -> bool:
        found = [(each["event"], each["client"], each["epoch"]) for each in await told(valkey)]
        return ("connected", client, epoch) in found

    await eventually(is_told, f"{client} is connected since {epoch}")


async def test_a_lease_that_is_written_late_is_told_then(worker: Worker, valkey: Valkey) -> None:
    handle = await worker.connect("a")
    assert await told(valkey) == []
    worker.keeper.mark_dirty(handle)
    await until_told(valkey, "a", EPOCH)


async def test_one_that_was_removed_as_a_dead_ones_is_told_again(worker: Worker, valkey: Valkey) -> None:
    """As after a pause: somebody took this worker for dead, and said that its client expired."""
    await worker.connected("a", "b")
    await worker.registry.withdraw("me")
    assert await worker.registry.remove_many([Lease("a", "me", EPOCH)]) == [True]
    await until_told(valkey, "a", EPOCH)
    assert await worker.holders("a", "b") == ["me", "me"]


async def test_an_epoch_that_is_taken_over_is_told(worker: Worker, valkey: Valkey) -> None:
    await worker.connected("a")
    registration = await worker.registry.register("a", "", "me", 1_000_000)
    await until_told(valkey, "a", registration.epoch)


async def test_a_dead_workers_lease_that_stands_in_the_way_has_expired(worker: Worker, valkey: Valkey) -> None:
    await worker.connect("a")
    await worker.registry.register("a", "", "dead", 1_000_000)
    worker.keeper.mark_dirty(worker.harness.engine.find(b"a"))
    await until_told(valkey, "a", EPOCH)
    assert {(e["event"], e["epoch"]) for e in await told(valkey)} == {("expired", 1_000_000), ("connected", EPOCH)}


async def test_who_yields_is_not_told(worker: Worker, valkey: Valkey) -> None:
    await worker.connected("a", "b")
    await worker.connected_elsewhere("a", epoch=1_000_000)
    for client in (b"a", b"b"):
        worker.keeper.mark_dirty(worker.harness.engine.find(client))
    await until_told(valkey, "b", EPOCH)
    await eventually(lambda: worker.harness.notes.closes)
    assert {each["client"] for each in await told(valkey)} == {"b"}


async def test_who_went_while_the_lease_was_written_is_not_told(worker: Worker, valkey: Valkey) -> None:
    """The end was told already, and is the last word."""
    await worker.connected("a", "b")
    handle = worker.harness.engine.find(b"a")
    worker.harness.engine.close(handle, 4005, b"")
    worker.keeper.written(handle, Lease("a", "me", EPOCH))
    worker.keeper.written(worker.harness.engine.find(b"b"), Lease("b", "me", EPOCH))
    await until_told(valkey, "b", EPOCH)
    assert {each["client"] for each in await told(valkey)} == {"b"}
