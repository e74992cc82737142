"""A registry of several servers: one shard is away while others are not, or a replica knows less than its primary."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.delivery.world import World
from tests.support import eventually
from zpush.protocol.message import Outcome
from zpush.registry.base import Lease

DELIVERED, OFFLINE = Outcome.DELIVERED, Outcome.OFFLINE


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.stop()


# ---- shards


async def test_a_shard_that_is_away_holds_up_its_own_clients_alone(world: World) -> None:
    await world.box("one", "a", "b")
    router = world.router()
    world.registry.shards_away = {"b"}
    router.route(world.out.jobs(("a", "m1"), ("b", "m2"), ("nobody", "m3")))
    assert await world.out.of("m1", "m3") == [DELIVERED, OFFLINE]
    assert router.parked == 1, "b's message"
    world.registry.shards_away = set()
    assert await world.out.of("m2") == [DELIVERED]


async def test_without_the_nodes_known_owners_are_reached_and_nobody_is_called_offline(world: World) -> None:
    await world.box("one", "a")
    router = world.router()
    router.route(world.out.jobs(("a", "m1")))
    assert await world.out.of("m1") == [DELIVERED]
    world.registry.shards_away = {"nodes"}
    late = await world.box("late", "c")
    router.route(world.out.jobs(("a", "m2"), ("nobody", "m3"), ("c", "m4")))
    assert await world.out.of("m2") == [DELIVERED]
    await eventually(lambda: router.parked == 2, "a client of an unknown node waits, and one of none")
    await asyncio.sleep(1.1)  # the list of nodes is old by now
    router.route(world.out.jobs(("a", "m5")))
    assert await world.out.of("m5") == [DELIVERED]
    world.registry.shards_away = set()
    assert await world.out.of("m3", "m4") == [OFFLINE, DELIVERED]
    assert late.table.ids("c") == ["m4"]


async def test_a_user_one_of_whose_devices_cannot_be_looked_up(world: World) -> None:
    await world.box("one", "a", "b")
    router = world.router()
    for client_id in ("a", "b"):
        world.registry.leases[client_id] = Lease(client_id, "one", 1, "ann")
    clients, certain = await router.devices("ann")
    assert (sorted(clients), certain) == (["a", "b"], True)
    world.registry.shards_away = {"b"}
    clients, certain = await router.devices("ann")
    assert (sorted(clients), certain) == (["a", "b"], False)


# ---- replicas


async def test_what_a_replica_knows_is_used(world: World) -> None:
    await world.box("one", "a")
    world.registry.reads_replicas = True
    world.router().route(world.out.jobs(("a", "m1")))
    assert await world.out.of("m1") == [DELIVERED]
    assert world.registry.fresh_look_ups == []


async def test_a_dead_owner_that_a_replica_names_is_no_reason_to_call_a_client_offline(world: World) -> None:
    await world.box("new", "a")
    world.registry.reads_replicas = True
    world.registry.old = {c: Lease(c, "dead", 1) for c in ("a", "gone")}
    world.router().route(world.out.jobs(("a", "m1"), ("gone", "m2")))
    assert await world.out.of("m1", "m2") == [DELIVERED, OFFLINE]
    assert world.registry.fresh_look_ups == [["a", "gone"]]


async def test_an_owner_that_has_the_client_no_more_is_not_asked_again_on_a_replicas_word(world: World) -> None:
    old, new = await world.box("old"), await world.box("new", "a")
    world.registry.reads_replicas = True
    world.registry.put("a", new, epoch=2)
    world.registry.old = {"a": Lease("a", old.node.id, 1)}  # for as long as this takes
    world.router().route(world.out.jobs(("a", "m1")))
    assert await world.out.of("m1") == [DELIVERED]
    assert len(old.table.calls) == 1 and new.table.ids("a") == ["m1"]


async def test_where_a_client_is_is_never_a_replicas_word(world: World) -> None:
    old, new = await world.box("old"), await world.box("new", "a")
    world.registry.reads_replicas = True
    world.registry.put("a", new, epoch=2)
    world.registry.old = {"a": Lease("a", old.node.id, 1)}
    found = await world.router().locate("a")
    assert found is not None and found[1].id == "new"
