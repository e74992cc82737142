"""Interleavings by name; test_epochs.py has the random ones. A and B are workers, C a client that moves."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from tests.registry.support import registry_at
from tests.store.topologies import Topology
from tests.support import Valkey, halt
from zpush.registry import redis
from zpush.registry.base import IN_TIME_MS, Lease, Registration, Renewal
from zpush.registry.redis import RedisRegistry

A, B, C = "aaaaaaaaaa", "bbbbbbbbbb", "client"
NOW_MS = 1_700_000_000_000


class Clock:
    """What the registry takes for the server's time, see register.lua: 0 is not known, 1 long ago."""

    until_ms = 0

    def in_ms(self, milliseconds: int) -> int:
        return self.until_ms

    def ask(self) -> None: ...


@pytest.fixture
async def registry(topology: Topology) -> AsyncIterator[RedisRegistry]:
    async with registry_at(topology.url) as (it, _):
        it._clock = Clock()  # type: ignore[assignment]
        yield it


async def holder(registry: RedisRegistry) -> Lease | None:
    return (await registry.look_up([C]))[0]


async def late(registry: RedisRegistry, node_id: str, now_ms: int) -> Registration | Lease:
    """A registration that is carried out long after it was sent."""
    registry._clock.until_ms = 1  # type: ignore[attr-defined]
    try:
        return await registry.register(C, "", node_id, now_ms)
    finally:
        registry._clock.until_ms = 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("where", [A, B], ids=["the same worker", "another worker"])
async def test_an_old_close_after_a_new_connect(registry: RedisRegistry, where: str) -> None:
    await registry.register(C, "ann", A, NOW_MS)
    await registry.register(C, "ann", where, NOW_MS)
    assert not await registry.remove(Lease(C, A, NOW_MS, "ann"))
    newer = Lease(C, where, NOW_MS + 1, "ann")
    assert await holder(registry) == newer
    assert await registry.user_clients("ann") == {C: newer}


async def test_two_connects_at_once_on_two_boxes(topology: Topology, registry: RedisRegistry) -> None:
    """Each on a connection of its own. One replaces the other, whichever it is, and only that one is told so."""
    async with registry_at(topology.url) as (other, _):
        for number in range(50):
            now_ms = NOW_MS + number * 1000
            answers = await asyncio.gather(registry.register(C, "", A, now_ms), other.register(C, "", B, now_ms))
            first, second = sorted(answers, key=lambda answer: answer.epoch)
            loser, winner = (A, B) if first is answers[0] else (B, A)
            assert (first.epoch, second.epoch) == (now_ms, now_ms + 1)
            assert second.replaced == Lease(C, loser, now_ms)
            assert await holder(registry) == Lease(C, winner, now_ms + 1)
            assert await registry.renew([Lease(C, loser, now_ms)]) == [Lease(C, winner, now_ms + 1)]


async def test_a_reconnect_to_the_same_worker(registry: RedisRegistry) -> None:
    await registry.register(C, "", A, NOW_MS)
    again = await registry.register(C, "", A, NOW_MS + 1)
    assert again == Registration(NOW_MS + 1, Lease(C, A, NOW_MS))
    assert await registry.renew([Lease(C, A, NOW_MS)]) == [Lease(C, A, NOW_MS + 1)]
    assert await registry.register_late(Lease(C, A, NOW_MS)) == Lease(C, A, NOW_MS + 1)
    assert not await registry.remove(Lease(C, A, NOW_MS))


@pytest.mark.parametrize("newer", [1, 0], ids=["newer", "of the same millisecond"])
async def test_a_delayed_registration_after_another_one(registry: RedisRegistry, newer: int) -> None:
    await registry.register(C, "", B, NOW_MS + newer)
    held = Lease(C, B, NOW_MS + newer)
    assert await late(registry, A, NOW_MS) == held
    assert await holder(registry) == held


async def test_a_delayed_registration_after_a_newer_one_of_the_same_worker(registry: RedisRegistry) -> None:
    await registry.register(C, "", A, NOW_MS + 1)
    assert await late(registry, A, NOW_MS) == Lease(C, A, NOW_MS + 1)
    assert await holder(registry) == Lease(C, A, NOW_MS + 1)


async def test_a_delayed_registration_with_nobody_newer_is_as_good_as_any(registry: RedisRegistry) -> None:
    assert await late(registry, A, NOW_MS) == Registration(NOW_MS, None)
    assert await late(registry, A, NOW_MS) == Registration(NOW_MS, Lease(C, A, NOW_MS)), "its own repair came first"
    assert await late(registry, B, NOW_MS + 1) == Registration(NOW_MS + 1, Lease(C, A, NOW_MS))


async def test_a_server_that_stood_still_carries_out_late_what_was_sent_before(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the server's own clock. In time, a worker whose clock is behind wins as anybody does."""
    monkeypatch.setattr(redis, "IN_TIME_MS", IN_TIME_MS)
    async with registry_at(valkey.url) as (registry, store):
        await store.call("", "PING")  # the answer to what was asked at the connect has come, too
        await registry.register(C, "", B, NOW_MS + 1000)
        halt(valkey.pid)
        try:
            sent = asyncio.create_task(registry.register(C, "", A, NOW_MS))
            await asyncio.sleep(3 * IN_TIME_MS / 1000)
        finally:
            os.kill(valkey.pid, signal.SIGCONT)
        assert await sent == Lease(C, B, NOW_MS + 1000)
        monkeypatch.setattr(redis, "IN_TIME_MS", 60_000)
        assert await registry.register(C, "", A, NOW_MS) == Registration(NOW_MS + 1001, Lease(C, B, NOW_MS + 1000))


async def test_a_repair_by_a_box_with_a_half_open_socket(registry: RedisRegistry) -> None:
    """Everything is lost, and the box that the client has left is the first to write its leases again."""
    half_open, real = Lease(C, A, NOW_MS, "ann"), Lease(C, B, NOW_MS + 5, "ann")
    assert await registry.register_late(half_open) is None
    assert await registry.register_late(real) is None
    assert await registry.renew([half_open]) == [real]
    assert await registry.register_late(half_open) == real
    assert not await registry.remove(half_open), "when the box has noticed"
    assert await registry.user_clients("ann") == {C: real}


async def test_a_box_that_was_paused_for_longer_than_its_leases(registry: RedisRegistry) -> None:
    paused = [Lease("moved", A, NOW_MS), Lease("stayed", A, NOW_MS)]
    moved = await registry.register("moved", "", B, NOW_MS + 60_000)
    holds = Lease("moved", B, moved.epoch)
    assert await registry.renew(paused) == [holds, Renewal.MISSING]
    assert await registry.register_late(paused[1]) is None
    assert await registry.look_up(["moved", "stayed"]) == [holds, paused[1]]


async def test_what_comes_late_from_a_dead_incarnation_means_no_later_one(registry: RedisRegistry) -> None:
    """A worker's end, told by others or by itself, names the incarnation: its successor has another name."""
    await registry.register(C, "", A, NOW_MS)
    await registry.register(C, "", B, NOW_MS + 1)
    await registry.withdraw(A)
    assert not await registry.remove(Lease(C, A, NOW_MS))
    assert await holder(registry) == Lease(C, B, NOW_MS + 1)
