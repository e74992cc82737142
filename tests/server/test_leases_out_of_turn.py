"""What makes a worker look at its leases before their turn comes: with leases of 20 minutes, nothing else does here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from tests.server.lease_world import Worker, lease_world
from tests.support import Valkey, eventually
from zpush.config.settings import Registry as Settings
from zpush.errors import RegistryUnavailable
from zpush.protocol.close import REPLACED
from zpush.registry.base import Lease, Node, NodeState, Renewal
from zpush.server import leases

SETTINGS = Settings(node_ttl_s=2.0, repair_rate=100)  # to write all again takes longer than a repair lasts at least
CLIENTS = [f"c{i}" for i in range(200)]
NEWER = 1_000_000


@pytest.fixture
async def worker(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worker]:
    monkeypatch.setattr(leases, "SAMPLE", 16)
    async with lease_world(valkey, SETTINGS) as it:
        await it.connected(*CLIENTS)
        yield it


def closed(worker: Worker) -> dict[bytes, int]:
    """Client id → close code."""
    return {client_id: code for _, client_id, _, _, code, _ in worker.harness.notes.closes}


async def all_are_back(worker: Worker) -> bool:
    whole = await worker.registry.whole()  # first: leases may come between the two questions
    missing = "" in await worker.holders(*CLIENTS)
    assert not (missing and whole), "a miss would be final now"
    return whole and not missing


async def test_a_server_that_was_emptied_is_told_again_and_nobody_is_called_offline_meanwhile(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLUSHALL by mistake: no connection is lost, so nothing else tells."""
    announce, renew, said, missing = worker.registry.announce, worker.registry.renew_node, [], []

    async def listen(node: Node) -> None:
        said.append(node.state)
        await announce(node)

    async def look(node: Node) -> bool:
        known = await renew(node)
        if known and node.state is NodeState.UP:
            missing.append((await worker.holders(*CLIENTS)).count(""))
        return known

    monkeypatch.setattr(worker.registry, "announce", listen)
    monkeypatch.setattr(worker.registry, "renew_node", look)
    await worker.store.call("", "FLUSHALL")
    await eventually(lambda: all_are_back(worker), "all leases are back")
    assert said[0] is NodeState.REPAIRING, "from the first word on"
    assert not any(missing), "nor is it well before all were looked at"
    assert await worker.holders(*CLIENTS) == ["me"] * len(CLIENTS)
    assert await worker.state() is NodeState.UP
    assert closed(worker) == {}


async def test_a_repair_is_not_over_while_leases_are_still_to_be_looked_at(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though none that was looked at is still to be written, and every other worker had its time."""
    renew, said = worker.registry.renew_node, []

    async def listen(node: Node) -> bool:
        said.append(node.state)
        return await renew(node)

    worker.keeper.running.cancel()
    await asyncio.wait([worker.keeper.running])
    await worker.store.call("", "FLUSHALL")
    await worker.keeper._stay_known()
    worker.keeper._repair_until_s = 0.0
    monkeypatch.setattr(worker.registry, "renew_node", listen)
    while worker.keeper._doubted:
        await worker.keeper._repair_some()
    assert NodeState.UP not in said


async def test_a_worker_that_was_taken_for_dead_finds_out_who_went_elsewhere(worker: Worker) -> None:
    # Before the keeper has its turn: it finds out at any time.
    _, state = await asyncio.gather(worker.registry.withdraw("me"), worker.state())
    assert state is None
    await worker.connected_elsewhere(*CLIENTS[::20], epoch=NEWER)
    await eventually(lambda: len(closed(worker)) == 10, "who went elsewhere is closed here")
    assert closed(worker) == {client.encode(): REPLACED for client in CLIENTS[::20]}
    assert await worker.holders(*CLIENTS) == ["me" if i % 20 else "other" for i in range(len(CLIENTS))]

    async def up() -> bool:
        return await worker.state() is NodeState.UP

    await eventually(up, "and the others are its own")


async def test_the_end_of_a_repair_does_not_hide_that_it_was_taken_for_dead(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody has removed a lease with the key. What is said next must not bring the key back."""
    caplog.set_level(logging.INFO)
    async with lease_world(valkey, Settings(node_ttl_s=300.0)) as worker:
        await worker.connected("a", "b")
        await worker.registry.withdraw("me")
        worker.keeper.mark_dirty(worker.harness.engine.find(b"b"))
        await eventually(lambda: "taken for dead" in caplog.text)
        assert await worker.state() is NodeState.REPAIRING


async def test_a_worker_that_stood_still_for_less_than_that_looks_as_well(worker: Worker) -> None:
    """Its key is still there. Who wanted to tell it of a newer connection has given up."""
    await worker.connected_elsewhere(CLIENTS[77], epoch=NEWER)
    await worker.store.call("", "PEXPIRE", "zpush:{nodes}:node:me", 60_000)
    time.sleep(0.6 * SETTINGS.node_ttl_s)  # noqa: ASYNC251  the loop is what stands still
    await eventually(lambda: closed(worker), "who went elsewhere is closed here")
    assert closed(worker) == {CLIENTS[77].encode(): REPLACED}


async def test_where_one_lease_is_missing_all_are_looked_at(worker: Worker) -> None:
    """A shard of several that was emptied: node key and list are on another one."""
    await worker.store.call("", "DEL", *(f"zpush:lease:{client}" for client in CLIENTS))

    async def back() -> bool:
        return "" not in await worker.holders(*CLIENTS)

    await eventually(back, "all leases are back, long before each was due for its renewal")


async def test_after_a_failover_all_are_written_again_whatever_a_few_of_them_say(worker: Worker) -> None:
    """The last second is lost, and none of the few that are looked at is of it."""
    worker.registry._connected(True)
    await worker.store.call("", "DEL", *(f"zpush:lease:{client}" for client in CLIENTS[-9:]))

    async def back() -> bool:
        return "" not in await worker.holders(*CLIENTS)

    await eventually(back, "all leases are back, long before each was due for its renewal")


async def test_a_list_of_nodes_that_was_lost_is_written_again(worker: Worker) -> None:
    await worker.store.call("", "DEL", "zpush:{nodes}")
    assert not await worker.registry.whole()
    await eventually(worker.registry.whole, "the worker is listed")


async def test_a_check_that_fails_is_made_up_for(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shard of the leases is away while that of the node key is back."""
    renew, failures = worker.registry.renew, iter(range(3))

    async def broken(found: Sequence[Lease]) -> list[Renewal | Lease]:
        if next(failures, None) is not None:
            raise RegistryUnavailable("not yet")
        return await renew(found)

    monkeypatch.setattr(worker.registry, "renew", broken)
    await worker.store.call("", "FLUSHALL")
    await eventually(lambda: all_are_back(worker), "all leases are back")


async def test_a_server_that_is_full_when_it_has_lost_everything(worker: Worker) -> None:
    """And there is no reconnect when it no longer is."""
    await worker.store.call("", "FLUSHALL")
    await worker.store.call("", "CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(RegistryUnavailable, match="OOM"):
        await worker.registry.announce(Node("other", "127.0.0.1:2", "local", NodeState.UP))
    await eventually(lambda: worker.keeper._repairing, "it has noticed")
    await worker.store.call("", "CONFIG", "SET", "maxmemory", 0)
    await eventually(lambda: all_are_back(worker), "all leases are back")


async def test_a_defect_ends_the_keeper_and_is_not_swallowed(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(node: Node) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(worker.registry, "renew_node", broken)
    await asyncio.wait([worker.keeper.running], timeout=30)
    with pytest.raises(ExceptionGroup) as caught:
        worker.keeper.running.result()
    assert caught.group_contains(ZeroDivisionError)
