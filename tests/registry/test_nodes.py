"""The directory of nodes: who lives, who repairs, and what an empty list means."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec
import pytest

from tests.registry.support import registry_at
from tests.store.topologies import Topology
from tests.support import eventually
from zpush.errors import RegistryUnavailable
from zpush.registry.base import Node, NodeState
from zpush.registry.redis import RedisRegistry
from zpush.store import Store

A, B = "aaaaaaaaaa", "bbbbbbbbbb"


@pytest.fixture
async def both(topology: Topology) -> AsyncIterator[tuple[RedisRegistry, Store]]:
    async with registry_at(topology.url) as both:
        await begun(both[0])
        yield both


async def begun(registry: RedisRegistry) -> None:
    """A cluster that has just been made is as one that has lost everything, until somebody has repaired."""
    await registry.announce(node("first", NodeState.REPAIRING))
    await registry.withdraw("first")


@pytest.fixture
def registry(both: tuple[RedisRegistry, Store]) -> RedisRegistry:
    return both[0]


@pytest.fixture
def store(both: tuple[RedisRegistry, Store]) -> Store:
    return both[1]


def node(node_id: str = A, state: NodeState = NodeState.UP) -> Node:
    return Node(node_id, "10.0.0.1:8100", "eu", state)


async def test_a_node_is_renewed_only_while_its_key_is_there(registry: RedisRegistry) -> None:
    assert not await registry.renew_node(node())
    assert await registry.nodes() == {}
    await registry.announce(node())
    draining = node(state=NodeState.DRAINING)
    assert await registry.renew_node(draining)
    assert await registry.nodes() == {A: draining}
    await registry.withdraw(A)
    assert not await registry.renew_node(node()), "somebody took it for dead"
    assert await registry.nodes() == {}


async def test_a_renewed_key_lives_on(topology: Topology) -> None:
    async with registry_at(topology.url, node_ttl_s=60.0) as (registry, store):
        await begun(registry)
        await registry.announce(node())
        await store.call(f"t:{{nodes}}:node:{A}", "PEXPIRE", f"t:{{nodes}}:node:{A}", 30_000)
        assert await registry.renew_node(node())
        assert await store.call(f"t:{{nodes}}:node:{A}", "PTTL", f"t:{{nodes}}:node:{A}") > 30_000


async def test_nodes_found_by_name(registry: RedisRegistry) -> None:
    await registry.announce(node())
    assert await registry.find_nodes([A, B]) == {A: node()}
    assert await registry.find_nodes([]) == {}


async def test_whole_while_somebody_is_known_and_nobody_repairs(registry: RedisRegistry) -> None:
    assert not await registry.whole(), "nobody is known"
    await registry.announce(node(A))
    await registry.announce(node(B))
    assert await registry.whole()
    for write in (registry.announce, registry.renew_node):
        await write(node(A, NodeState.REPAIRING))
        await write(node(B, NodeState.REPAIRING))
        assert not await registry.whole()
        await write(node(A))
        assert not await registry.whole(), "B still does"
        await write(node(B, NodeState.DRAINING))
        assert await registry.whole()
    await registry.announce(node(B, NodeState.REPAIRING))
    await registry.withdraw(B)
    assert await registry.whole()


async def test_one_that_died_while_it_repaired_is_waited_for_no_longer_than_its_key(topology: Topology) -> None:
    async with registry_at(topology.url) as (lives, _), registry_at(topology.url, node_ttl_s=1.0) as (dies, _):
        await dies.announce(node(A, NodeState.REPAIRING))
        await lives.announce(node(B))
        assert not await lives.whole()
        await eventually(lives.whole, "its entry is gone")


REFUSALS = {"OOM": ("maxmemory", 1, 0), "NOREPLICAS": ("min-replicas-to-write", 9, 0)}


@pytest.fixture(params=REFUSALS)
def refusing(request: pytest.FixtureRequest, topology: Topology) -> Iterator[tuple[str, Callable[[bool], None]]]:
    """The word for it, and set(whether the servers refuse writes)."""
    setting, refuse, take = REFUSALS[request.param]

    def switch(refuses: bool) -> None:
        for server in topology.primaries():
            server.command("CONFIG", "SET", setting, refuse if refuses else take)

    topology.disturb()
    yield request.param, switch
    switch(False)


async def test_servers_that_take_no_writes_for_longer_than_a_node_ttl_make_nobody_look_dead(
    topology: Topology, refusing: tuple[str, Callable[[bool], None]]
) -> None:
    word, switch = refusing
    async with registry_at(topology.url, node_ttl_s=1.0) as (registry, store):
        await begun(registry)
        for each in (A, B):
            await registry.announce(node(each))
        await store.call("t:{nodes}", "SET", "t:{nodes}:test", "until two TTLs have passed", "PX", 2000)
        assert await registry.whole() and registry.refusal == ""
        await asyncio.to_thread(switch, True)
        while await store.call("t:{nodes}", "EXISTS", "t:{nodes}:test"):
            for each in (A, B):
                with pytest.raises(RegistryUnavailable, match=word):
                    await registry.renew_node(node(each))
            assert word in registry.refusal
            assert set(await registry.find_nodes([A, B])) == {A, B} or not await registry.whole()
            await asyncio.sleep(0.05)
        assert not await registry.whole(), "leases of new clients may be missing, too"
        assert set(await registry.find_nodes([A, B])) == ({A, B} if word == "OOM" else set()), "PEXPIRE needs no memory"
        await asyncio.to_thread(switch, False)
        for state in (NodeState.REPAIRING, NodeState.UP):
            for each in (A, B):
                await registry.renew_node(node(each, state)) or await registry.announce(node(each, state))
        assert await registry.whole() and registry.refusal == ""


async def test_an_emptied_server_is_not_whole_before_somebody_said_that_he_repairs(
    registry: RedisRegistry, store: Store
) -> None:
    await registry.announce(node())
    await store.call("t:{nodes}", "FLUSHALL")
    assert not await registry.whole()
    assert not await registry.renew_node(node())
    assert not await registry.whole(), "a renewal does not make it look well"
    await registry.announce(node(A, NodeState.REPAIRING))
    assert not await registry.whole()
    await registry.announce(node(A))
    assert await registry.whole()


async def test_a_list_that_was_lost_with_its_shard_is_written_again_and_said_to_be(
    registry: RedisRegistry, store: Store
) -> None:
    await registry.announce(node())
    await store.call("t:{nodes}", "DEL", "t:{nodes}")
    assert not await registry.renew_node(node()), "leases may have been lost with it"
    assert await registry.renew_node(node())
    assert await registry.nodes() == {A: node()}


async def test_fields_of_a_later_version_are_ignored(registry: RedisRegistry, store: Store) -> None:
    value = {**msgspec.to_builtins(node()), "weight": 7}
    await registry.announce(node())
    await store.call(f"t:{{nodes}}:node:{A}", "SET", f"t:{{nodes}}:node:{A}", msgspec.json.encode(value))
    assert await registry.nodes() == {A: node()}


@pytest.mark.parametrize("key", ["t:{nodes}", "t:{nodes}:repairing"])
async def test_foreign_data_in_the_directory_is_named_and_nothing_is_certain(
    registry: RedisRegistry, store: Store, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Who holds what cannot be known: better a late message than a wrong `offline`. A worker lives on meanwhile."""
    await store.call(key, "SET", key, "hello")
    await registry.announce(node())
    assert await registry.renew_node(node())
    assert await registry.find_nodes([A]) == {A: node()}
    named = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(named) == 1 and key in named[0]
    if key == "t:{nodes}":
        with pytest.raises(RegistryUnavailable, match="WRONGTYPE"):
            await registry.nodes()
    else:
        assert not await registry.whole()
    await store.call(key, "DEL", key)
    await registry.renew_node(node())
    assert await registry.renew_node(node()), key
    assert await registry.nodes() == {A: node()} and await registry.whole()
