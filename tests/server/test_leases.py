"""The worker's leases on a real engine and a real Valkey: renewal, repair, yielding to a newer holder."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection

import pytest

from tests.server.lease_world import EPOCH, Worker, lease_world
from tests.support import Valkey, eventually
from zpush.config.settings import Registry as Settings
from zpush.errors import RegistryUnavailable
from zpush.protocol.close import REPLACED
from zpush.registry.base import Lease, Node, NodeState
from zpush.server.leases import STEPS_A_SECOND

SETTINGS = Settings(lease_ttl_s=2.0, node_ttl_s=1.0, repair_rate=100)
NEWER = 1_000_000


@pytest.fixture
async def worker(valkey: Valkey) -> AsyncIterator[Worker]:
    async with lease_world(valkey, SETTINGS) as it:
        yield it


async def test_the_node_is_announced_renewed_and_withdrawn(worker: Worker) -> None:
    assert (await worker.registry.nodes())["me"].state is NodeState.UP
    started = worker.harness.loop.time()
    await eventually(lambda: worker.harness.loop.time() > started + 1.5 * SETTINGS.node_ttl_s)
    assert "me" in await worker.registry.nodes(), "renewed past its TTL"
    worker.keeper.drain()

    async def draining() -> bool:
        return (await worker.registry.nodes())["me"].state is NodeState.DRAINING

    await eventually(draining)
    await worker.keeper.stop()
    assert "me" not in await worker.registry.nodes()


async def test_leases_are_renewed_past_their_ttl(worker: Worker) -> None:
    await worker.connected("a", "b", "c")
    started = worker.harness.loop.time()
    await eventually(lambda: worker.harness.loop.time() > started + 2 * SETTINGS.lease_ttl_s)
    assert await worker.holders("a", "b", "c") == ["me"] * 3


async def test_the_wall_clock_jumps_and_no_lease_is_lost(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards past every TTL, and back again: what is renewed, and when, goes by another clock."""
    await worker.connected("a", "b", "c")
    real_ns, loop = time.time_ns, worker.harness.loop
    for hours in (1, -1):
        monkeypatch.setattr(time, "time_ns", lambda hours=hours: real_ns() + hours * 3_600_000_000_000)
        monkeypatch.setattr(time, "time", lambda hours=hours: real_ns() / 1e9 + hours * 3600)
        jumped_s = loop.time()
        await eventually(lambda jumped_s=jumped_s: loop.time() > jumped_s + 1.5 * SETTINGS.lease_ttl_s)
        assert await worker.holders("a", "b", "c") == ["me"] * 3
        assert await worker.state() is NodeState.UP
    assert worker.harness.notes.closes == []


async def test_a_server_that_lost_everything_is_told_again(worker: Worker, valkey: Valkey) -> None:
    clients = [f"c{i}" for i in range(50)]
    await worker.connected(*clients)
    valkey.restart(empty=True)
    seen: set[NodeState] = set()

    async def all_back() -> bool:
        try:
            nodes = await worker.registry.nodes()
            holders = await worker.holders(*clients)
        except RegistryUnavailable:
            return False
        seen.update(node.state for node in nodes.values())
        return holders == ["me"] * len(clients) and nodes["me"].state is NodeState.UP

    await eventually(all_back)
    assert NodeState.REPAIRING in seen, "while it repairs, a miss is not `offline`"
    assert worker.keeper.dirty_leases == 0
    assert worker.harness.engine.connections == len(clients)


async def test_a_dirty_lease_is_written_with_its_own_epoch(worker: Worker) -> None:
    worker.keeper.mark_dirty(await worker.connect("a"))

    async def written() -> bool:
        return await worker.registry.look_up(["a"]) == [Lease("a", "me", EPOCH)]

    await eventually(written)


@pytest.mark.parametrize("rate", [3, 19, 100])
async def test_repairs_and_checks_together_keep_to_the_repair_rate(valkey: Valkey, rate: int) -> None:
    """Two seconds' steps, made here: whatever the rate is, and whatever there is to do."""
    async with lease_world(valkey, Settings(repair_rate=rate)) as worker:
        clients = [f"c{number}" for number in range(3 * rate)]
        await worker.connected(*clients)
        worker.keeper.running.cancel()
        await asyncio.wait([worker.keeper.running])
        for client in clients[:rate]:
            worker.keeper.mark_dirty(worker.harness.engine.find(client.encode()))
        worker.keeper._doubted = worker.harness.engine.slots
        doubted = worker.keeper._doubted
        for _ in range(2 * STEPS_A_SECOND):
            await worker.keeper._repair_some()
        written = rate - worker.harness.engine.dirty_leases
        assert written == rate, "those first"
        assert 2 * rate - 1 <= written + doubted - worker.keeper._doubted <= 2 * rate


@pytest.mark.parametrize("how", ["renewal", "repair"])
async def test_a_newer_holder_elsewhere_closes_our_socket(worker: Worker, how: str) -> None:
    await worker.connected("a")
    await worker.connected_elsewhere("a", epoch=NEWER)
    if how == "repair":
        worker.keeper.mark_dirty(worker.harness.engine.find(b"a"))
    await eventually(lambda: worker.harness.notes.closes)
    assert worker.harness.notes.closes[0][4] == REPLACED
    assert await worker.holders("a") == ["other"], "an older epoch takes nothing back"


@pytest.mark.parametrize("how", ["renewal", "repair"])
async def test_a_dead_workers_newer_lease_sends_nobody_away(worker: Worker, how: str) -> None:
    """Its clock was ahead. Our socket is the only one the client has, and 4002 would keep it away for good."""
    await worker.connected("a")
    await worker.registry.register("a", "", "dead", NEWER)
    if how == "repair":
        worker.keeper.mark_dirty(worker.harness.engine.find(b"a"))

    async def ours() -> bool:
        return await worker.registry.look_up(["a"]) == [Lease("a", "me", EPOCH)]

    await eventually(ours, "the lease is ours, with its own epoch: a newer connection must still win")
    assert worker.harness.notes.closes == []


async def test_who_cannot_ask_whether_the_holder_lives_asks_again(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_nodes, failures = worker.registry.find_nodes, iter(range(3))

    async def broken(node_ids: Collection[str]) -> dict[str, Node]:
        if next(failures, None) is not None:
            raise RegistryUnavailable("the nodes' shard is away")
        return await find_nodes(node_ids)

    monkeypatch.setattr(worker.registry, "find_nodes", broken)
    await worker.connected("a", "b")
    await worker.connected_elsewhere("a", epoch=NEWER)
    await worker.registry.register("b", "", "dead", NEWER)
    await eventually(lambda: worker.harness.notes.closes)

    async def settled() -> bool:
        return await worker.holders("a", "b") == ["other", "me"]

    await eventually(settled)
    assert [each[1] for each in worker.harness.notes.closes] == [b"a"]


async def test_a_newer_epoch_of_our_own_is_adopted(worker: Worker) -> None:
    await worker.connected("a")
    registration = await worker.registry.register("a", "", "me", 1_000_000)
    handle = worker.harness.engine.find(b"a")

    def adopted() -> bool:
        client = worker.harness.engine.client(handle)
        return client is not None and client[2] == registration.epoch

    await eventually(adopted)
    assert worker.harness.notes.closes == []
