"""What fails for a moment parks a message: owners, nodes and registries that are away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from tests.delivery.world import Box, World
from tests.support import eventually
from zpush.delivery import whereabouts
from zpush.delivery.live_nodes import LiveNodes
from zpush.errors import RegistryUnavailable
from zpush.protocol.message import Outcome
from zpush.registry.base import Node, NodeState

DELIVERED, OFFLINE, EXPIRED = Outcome.DELIVERED, Outcome.OFFLINE, Outcome.EXPIRED


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.stop()


# ---- transient failures


async def test_a_refused_owner_is_dead_and_its_clients_are_looked_up_at_once(world: World) -> None:
    dead, two = await world.box("dead", "a", "b"), await world.box("two", "a")
    world.registry.put("a", dead)
    await dead.die()
    world.registry.after_look_up = lambda: world.registry.put("a", two, epoch=2)
    world.router().route(world.out.jobs(("a", "m1"), ("b", "m2")))
    assert await world.out.of("m1", "m2") == [DELIVERED, OFFLINE]
    assert world.registry.withdrawn == ["dead"]


async def test_a_successor_on_the_dead_ones_port_gets_nothing_meant_for_it(world: World) -> None:
    dead = await world.box("dead", "a")
    await dead.die()
    successor = await Box("successor", "a").listen(dead.port)
    world.boxes.append(successor)
    world.router().route(world.out.jobs(("a", "m1")))
    assert await world.out.of("m1") == [OFFLINE]
    assert successor.table.calls == [] and world.registry.withdrawn == ["dead"]


async def test_a_node_that_is_refused_and_announced_again_and_again(world: World) -> None:
    """A wrong peers.advertise costs a bounded number of tries, no busy loop."""
    dead = await world.box("dead", "a")
    await dead.die()

    async def withdraw(node_id: str) -> None:
        world.registry.withdrawn.append(node_id)  # and it announces itself at once

    world.registry.withdraw = withdraw  # type: ignore[method-assign]
    world.router(retry_s=0.5).route(world.out.jobs(("a", "m1")))
    assert await world.out.of("m1") == [OFFLINE]
    assert 2 <= len(world.registry.withdrawn) <= 40


async def test_an_owner_that_refuses_again_and_again_is_tried_for_as_long_as_any(world: World) -> None:
    dead, two = await world.box("dead", "a"), await world.box("two", "a")
    world.registry.put("a", dead)
    await dead.die()

    async def withdraw(node_id: str) -> None:
        """It announces itself at once; the client goes elsewhere in the end."""
        world.registry.withdrawn.append(node_id)
        if len(world.registry.withdrawn) == 4:
            world.registry.put("a", two, epoch=2)

    world.registry.withdraw = withdraw  # type: ignore[method-assign]
    world.router(retry_s=60).route(world.out.jobs(("a", "m1")))
    assert await world.out.of("m1") == [DELIVERED]


async def test_an_owner_that_breaks_off_is_tried_again(world: World) -> None:
    one = await world.box("one", "a")
    taken = one.table.deliver
    one.table.deliver = lambda entries, settled: one.server.close() or bytes([1])  # type: ignore
    world.router().route(world.out.jobs(("a", "m1")))
    await eventually(lambda: one.server.connections == 0)
    one.table.deliver = taken  # type: ignore[method-assign]
    assert await world.out.of("m1") == [DELIVERED]
    assert world.registry.withdrawn == []


async def test_an_unreachable_owner_is_offline_after_the_deadline(world: World) -> None:
    world.registry.live["mute"] = Node("mute", "not an address", "local", NodeState.UP)
    world.registry.put("a", "mute")
    made = world.router(retry_s=60)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    expires_ms = time.time_ns() // 1_000_000 + 120
    direct = world.out.job("a", "direct", deadline_s=began_s + 0.05)
    made.route([direct, world.out.job("a", "ttl", expires_ms=expires_ms)])
    assert await world.out.of("direct") == [OFFLINE]
    assert loop.time() - began_s >= 0.04
    assert await world.out.of("ttl") == [OFFLINE]
    assert 0.1 <= loop.time() - began_s < 30, "long before the end of the retries"
    assert list(world.out.by_id) == ["direct", "ttl"] and made.parked == 0


async def test_an_owner_that_does_not_answer_is_asked_for_again(world: World) -> None:
    """A box without power refuses nothing. When its key has run out its clients are offline, whatever the list says."""
    world.registry.live["mute"] = Node("mute", "not an address", "local", NodeState.UP)
    world.registry.put("a", "mute")
    made = world.router(retry_s=60)
    made.route(world.out.jobs(("a", "m1")))
    await eventually(lambda: made.parked == 1)
    del world.registry.live["mute"]
    assert await world.out.of("m1") == [OFFLINE]
    assert world.registry.node_reads == 1 and world.registry.withdrawn == []


async def test_a_node_that_is_not_known_is_asked_for_by_name(world: World) -> None:
    await world.box("one", "a")
    world.registry.put("ghost", "dead")
    made = world.router()
    made.route(world.out.jobs(("a", "m1")))
    await world.out.of("m1")
    await world.box("two", "b")
    made.route(world.out.jobs(("b", "m2"), ("ghost", "m3")))
    assert await world.out.of("m2", "m3") == [DELIVERED, OFFLINE]
    assert world.registry.node_reads == 1 and world.registry.found_nodes == [["dead", "two"]]


async def test_the_list_of_a_large_fleet_is_read_more_rarely(world: World) -> None:
    for number in range(300):
        world.registry.live[str(number)] = Node(str(number), "", "local", NodeState.UP)
    nodes, loop = LiveNodes(world.registry), asyncio.get_running_loop()
    await nodes.read()
    assert not nodes.stale and nodes._next_s - loop.time() == pytest.approx(3.0, abs=0.5)


async def test_a_client_without_a_lease_waits_while_any_worker_repairs(world: World) -> None:
    one, two = await world.box("one", "a"), await world.box("two")
    del world.registry.leases["a"]
    world.registry.say(two, NodeState.REPAIRING)
    made = world.router()
    made.route(world.out.jobs(("a", "m1"), ("nobody", "m2")))
    await tries(world, 3)
    await eventually(lambda: made.parked == 2, "both wait again")
    assert world.out.by_id == {}
    world.registry.put("a", one)
    assert await world.out.of("m1") == [DELIVERED]
    world.registry.say(two, NodeState.UP)
    assert await world.out.of("m2") == [OFFLINE]


async def test_a_miss_is_checked_against_fresh_news_of_repairs(world: World) -> None:
    """The list of nodes is younger than a second, but from before the repair began."""
    one = await world.box("one", "a")
    made = world.router()
    made.route(world.out.jobs(("a", "m1")))
    await world.out.of("m1")
    del world.registry.leases["a"]
    world.registry.say(one, NodeState.REPAIRING)
    made.route(world.out.jobs(("a", "m2")))
    await eventually(lambda: made.parked == 1)
    world.registry.put("a", one)
    assert await world.out.of("m2") == [DELIVERED]


async def test_a_registry_that_lost_everything_makes_nobody_offline(world: World) -> None:
    """No worker has noticed yet, so none says that it repairs."""
    one = await world.box("one", "a")
    made = world.router()
    made.route(world.out.jobs(("a", "m1")))
    await world.out.of("m1")
    del world.registry.leases["a"]
    world.registry.lost = True
    made.route(world.out.jobs(("a", "m2")))
    await eventually(lambda: made.parked == 1)
    world.registry.put("a", one)
    assert await world.out.of("m2") == [DELIVERED]


def away(world: World, yes: bool) -> None:
    world.registry.away = yes


def repairing(world: World, yes: bool) -> None:
    world.registry.say(world.boxes[0], NodeState.REPAIRING if yes else NodeState.UP)


def shard_away(world: World, yes: bool) -> None:
    world.registry.shards_away = {"a"} if yes else set()


UNCERTAIN = pytest.mark.parametrize("uncertain", [away, repairing, shard_away])


async def tries(world: World, more: int) -> None:
    """Until it has been looked up so many times more."""
    until = len(world.registry.look_ups) + more
    await eventually(lambda: len(world.registry.look_ups) >= until, f"{more} more look-ups")


@UNCERTAIN
async def test_nobody_knows_for_longer_than_a_retry_lasts_where_the_client_is(
    world: World, uncertain: Callable[[World, bool], None]
) -> None:
    one = await world.box("one")
    uncertain(world, True)
    made = world.router(retry_s=0.02)
    made.route(world.out.jobs(("a", "m1")))
    await tries(world, 6)  # 20 ms each
    made.route(world.out.jobs(("a", "m2")))
    await tries(world, 6)
    await eventually(lambda: made.parked == 2, "both wait again")
    assert world.out.by_id == {}
    one.table.clients.add("a")
    world.registry.put("a", one)
    uncertain(world, False)
    assert await world.out.of("m1", "m2") == [DELIVERED, DELIVERED]
    assert one.table.ids("a") == ["m1", "m2"]


@UNCERTAIN
async def test_what_nobody_could_place_before_its_end_is_expired(
    world: World, uncertain: Callable[[World, bool], None]
) -> None:
    await world.box("one")
    uncertain(world, True)
    expires_ms = time.time_ns() // 1_000_000 + 400
    made = world.router(retry_s=0.0, max_age_s=0.6)
    made.route([world.out.job("a", "ttl", expires_ms=expires_ms), world.out.job("a", "old")])
    assert await world.out.of("ttl", "old") == [EXPIRED, EXPIRED]
    assert list(world.out.by_id) == ["ttl", "old"] and made.parked == 0
    assert 1 < len(world.registry.look_ups) < 160, "without a retry window, and without a busy loop"


async def test_what_is_over_when_its_next_turn_comes_is_looked_for_no_more(world: World) -> None:
    """Its client has come back meanwhile: what is too old, or was answered to who pushed it, is sent to nobody."""
    one = await world.box("one", "a")
    world.registry.away = True
    made = world.router(backoff_s=(3600.0,), max_age_s=0.3)
    direct = world.out.job("a", "direct", deadline_s=asyncio.get_running_loop().time() + 0.3)
    made.route([world.out.job("a", "old"), direct])
    await eventually(lambda: made.parked or world.out.by_id)
    world.registry.away = False
    assert await world.out.of("old", "direct") == [EXPIRED, EXPIRED]
    assert one.table.ids("a") == []


async def test_an_owner_has_its_time_from_when_it_is_known(world: World) -> None:
    """What waited for the registry longer than a retry lasts is not given up at the owner's first refusal."""
    one = await world.box("one", "a")
    world.registry.live["mute"] = Node("mute", "not an address", "local", NodeState.UP)
    world.registry.put("a", "mute")
    world.registry.away = True
    world.router(retry_s=0.5).route(world.out.jobs(("a", "m1"), ("a", "m2")))
    await tries(world, 30)  # 20 ms each
    world.registry.away = False
    await tries(world, 3)
    assert world.out.by_id == {}
    world.registry.put("a", one, epoch=2)
    assert await world.out.of("m1", "m2") == [DELIVERED, DELIVERED]


async def test_an_owner_has_no_time_beyond_the_end_of_a_message(world: World) -> None:
    world.registry.live["mute"] = Node("mute", "not an address", "local", NodeState.UP)
    world.registry.put("a", "mute")
    world.registry.away = True
    world.router(retry_s=3600.0, max_age_s=0.5).route(world.out.jobs(("a", "m1")))
    await tries(world, 2)
    world.registry.away = False
    [outcome] = await world.out.of("m1")
    assert outcome in (OFFLINE, EXPIRED), "the latter where it was over before anybody knew the owner"


async def test_what_has_a_deadline_of_its_own_is_tried_until_then(world: World) -> None:
    """Also where the owner becomes known later; how long others are tried says nothing of it."""
    one = await world.box("one", "a")
    world.registry.live["mute"] = Node("mute", "not an address", "local", NodeState.UP)
    world.registry.put("a", "mute")
    world.registry.away = True
    deadline_s = asyncio.get_running_loop().time() + 3600
    world.router(retry_s=0.02).route([world.out.job("a", "direct", deadline_s=deadline_s)])
    await tries(world, 2)
    world.registry.away = False
    await tries(world, 10)  # 20 ms each
    assert world.out.by_id == {}
    world.registry.put("a", one, epoch=2)
    assert await world.out.of("direct") == [DELIVERED]


async def test_a_miss_is_transient_for_a_node_ttl_after_a_reconnect(world: World) -> None:
    await world.box("one")
    made = world.router(node_ttl_s=0.15)
    world.registry.reconnect()
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    made.route(world.out.jobs(("a", "m1")))
    assert await world.out.of("m1") == [OFFLINE]
    assert 0.14 <= loop.time() - began_s < 30


async def test_a_registry_that_is_away_parks_and_what_waited_goes_out_in_order(world: World) -> None:
    one = await world.box("one", "a")
    world.registry.away = True
    made = world.router()
    for id in ("m1", "m2", "m3"):
        made.route(world.out.jobs(("a", id)))
        await eventually(lambda id=id: made.parked == int(id[1]))
    world.registry.away = False
    assert await world.out.of("m1", "m2", "m3") == [DELIVERED] * 3
    assert one.table.ids("a") == ["m1", "m2", "m3"]
    assert made.parked == 0


async def test_a_registry_that_hangs_is_given_up_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whereabouts, "LOOK_UP_TIMEOUT_S", 0.02)
    await world.box("one", "a")
    world.registry.gate = asyncio.Event()
    made = world.router()
    made.route(world.out.jobs(("a", "m1")))
    await eventually(lambda: made.parked == 1)
    with pytest.raises(RegistryUnavailable):
        await made.locate("a")
    world.registry.gate = None
    assert await world.out.of("m1") == [DELIVERED]


async def test_a_stale_route_whose_lease_cannot_be_removed_now(world: World) -> None:
    one = await world.box("one")
    world.registry.put("a", one)
    made = world.router()
    deliver = one.table.deliver

    def away(*args: object) -> bytes:
        world.registry.away = True
        return deliver(*args)  # type: ignore[arg-type]

    one.table.deliver = away  # type: ignore[method-assign]
    made.route(world.out.jobs(("a", "m1")))
    await eventually(lambda: made.parked == 1)
    one.table.deliver = deliver  # type: ignore[method-assign]
    world.registry.away = False
    assert await world.out.of("m1") == [OFFLINE]


async def test_what_ends_before_anybody_can_say_whether_its_route_was_stale_is_expired(world: World) -> None:
    one = await world.box("one")
    world.registry.put("a", one)
    deliver = one.table.deliver

    def away(*args: object) -> bytes:
        world.registry.away = True
        return deliver(*args)  # type: ignore[arg-type]

    one.table.deliver = away  # type: ignore[method-assign]
    world.router(backoff_s=(3600.0,), max_age_s=0.5).route(world.out.jobs(("a", "m1")))
    assert await world.out.of("m1") == [EXPIRED]


async def test_one_clients_trouble_is_nobody_elses(world: World) -> None:
    await world.box("one", "a")
    world.registry.live["mute"] = Node("mute", "not an address", "local", NodeState.UP)
    world.registry.put("b", "mute")
    made = world.router()
    made.route(world.out.jobs(("b", "m1"), ("a", "m2")))
    assert await world.out.of("m2") == [DELIVERED]
    assert "m1" not in world.out.by_id


async def test_a_full_lot_gives_up_the_oldest(world: World) -> None:
    world.registry.away = True
    made = world.router()
    made._lot._max_jobs = 2
    made.route(world.out.jobs(("a", "m1"), ("b", "m2"), ("c", "m3")))
    assert await world.out.of("m1") == [Outcome.DROPPED], "nobody knows whether it is connected"
    assert made.parked == 2 and set(world.out.by_id) == {"m1"}


async def test_a_lot_that_is_half_full_asks_for_no_more(world: World) -> None:
    made = world.router()
    made._lot._max_jobs = 4
    assert not made.holds_back
    world.registry.away = True
    assert made.holds_back, "whatever comes now would only wait"
    world.registry.shards_away, world.registry.away = {"a", "b"}, False
    made.route(world.out.jobs(("a", "m1"), ("b", "m2")))
    await eventually(lambda: made.parked == 2)
    assert made.holds_back
    world.registry.shards_away = {"a"}
    await world.out.of("m2")
    assert not made.holds_back


async def test_a_read_under_way_does_not_bring_a_dead_node_back(world: World) -> None:
    await world.box("dead")
    nodes = LiveNodes(world.registry)
    await nodes.read()
    before = world.registry.nodes
    gate = asyncio.Event()

    async def slowly() -> dict[str, Node]:
        answer = await before()
        await gate.wait()
        return answer

    world.registry.nodes = slowly  # type: ignore[method-assign]
    reading = asyncio.create_task(nodes.read())
    await eventually(lambda: world.registry.node_reads == 2)
    assert nodes.drop("dead") and not nodes.drop("dead")
    gate.set()
    await reading
    assert nodes.get("dead") is None
