"""Where a message goes, and what becomes of it where it cannot go there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence

import pytest

from tests.delivery.world import BACKOFF_S, World
from tests.support import Valkey, eventually
from zpush._fast.batch import Batches
from zpush.config.settings import Registry as Settings
from zpush.delivery import batch, router
from zpush.delivery.base import Entry
from zpush.delivery.live_nodes import LiveNodes
from zpush.delivery.router import MAX_PAYLOAD_BYTES, Router
from zpush.errors import RegistryUnavailable
from zpush.protocol.message import Outcome, Priority
from zpush.registry.base import Lease, Node
from zpush.registry.redis import RedisRegistry
from zpush.store import Store

DELIVERED, OFFLINE, EXPIRED = Outcome.DELIVERED, Outcome.OFFLINE, Outcome.EXPIRED


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.stop()


# ---- the straight road


async def test_a_batch_is_one_look_up_and_one_request_per_owner(world: World) -> None:
    one, two = await world.box("one", "a", "b"), await world.box("two", "c")
    world.router().route(world.out.jobs(("a", "m1"), ("c", "m2"), ("b", "m3"), ("a", "m4")))
    assert await world.out.of("m1", "m2", "m3", "m4") == [DELIVERED] * 4
    assert world.registry.look_ups == [["a", "c", "b"]]
    assert one.table.calls == [["a", "a", "b"]] and two.table.calls == [["c"]]
    assert one.table.ids("a") == ["m1", "m4"]


async def test_the_news_of_nodes_is_read_once_a_second_at_most(world: World) -> None:
    await world.box("one", "a")
    route = world.router().route
    for id in ("m1", "m2", "m3"):
        route(world.out.jobs(("a", id)))
        await world.out.of(id)
    assert world.registry.node_reads == 1


async def test_jobs_of_one_turn_share_a_look_up(world: World) -> None:
    await world.box("one", "a", "b")
    route = world.router().route
    route(world.out.jobs(("a", "m1")))
    route(world.out.jobs(("b", "m2")))
    await world.out.of("m1", "m2")
    assert world.registry.look_ups == [["a", "b"]]


async def test_own_clients_need_no_registry(world: World) -> None:
    own = await world.box("own", "mine")
    world.registry.away = True
    world.router(own).route(world.out.jobs(("mine", "m1"), ("mine", "m2")))
    assert await world.out.of("m1", "m2") == [DELIVERED] * 2
    assert world.registry.look_ups == [] and own.server.connections == 0


async def test_own_and_other_clients_in_one_batch(world: World) -> None:
    own, other = await world.box("own", "mine"), await world.box("other", "theirs")
    world.router(own).route(world.out.jobs(("mine", "m1"), ("theirs", "m2"), ("nobody", "m3")))
    assert await world.out.of("m1", "m2", "m3") == [DELIVERED, DELIVERED, OFFLINE]
    assert other.table.calls == [["theirs"]]
    assert world.registry.look_ups == [["theirs", "nobody"]]


async def test_every_outcome_of_an_owner_is_passed_on(world: World) -> None:
    given = [Outcome.DELIVERED, Outcome.DROPPED, Outcome.RATE_LIMITED, Outcome.REJECTED, Outcome.EXPIRED, Outcome.ACKED]
    one = await world.box("one", *(outcome.label for outcome in given))
    one.table.answers = {outcome.label: outcome for outcome in given}
    world.router().route(world.out.jobs(*((outcome.label, outcome.label) for outcome in given)))
    assert await world.out.of(*(outcome.label for outcome in given)) == given


async def test_pending_is_settled_later_and_holds_up_nobody(world: World) -> None:
    one = await world.box("one", "slow", "a")
    one.table.answers["slow"] = Outcome.PENDING
    route = world.router().route
    route(world.out.jobs(("slow", "m1"), ("a", "m2")))
    assert await world.out.of("m2") == [DELIVERED]
    route(world.out.jobs(("slow", "m3")))
    await eventually(lambda: len(one.table.waiting) == 2)
    assert set(world.out.by_id) == {"m2"}
    one.table.settle(Outcome.DROPPED)
    assert await world.out.of("m1", "m3") == [Outcome.DROPPED] * 2


async def test_large_batches_travel_in_pieces(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "BATCHES", Batches(Entry, Outcome, batch.PENDING, batch.NOT_HERE, 3, batch.MAX_BYTES))
    one = await world.box("one", "a", "b")
    ids = [f"m{n}" for n in range(10)]
    world.router().route(world.out.jobs(*(("a" if n < 7 else "b", id) for n, id in enumerate(ids))))
    assert await world.out.of(*ids) == [DELIVERED] * 10
    assert max(map(len, one.table.calls)) == 3
    assert one.table.ids("a") == ids[:7] and one.table.ids("b") == ids[7:]


async def test_a_batch_is_bounded_in_bytes(world: World) -> None:
    one = await world.box("one", "a")
    ids = [f"m{n}" for n in range(5)]
    world.router().route([world.out.job("a", id, payload=bytes(600_000)) for id in ids])
    assert await world.out.of(*ids) == [DELIVERED] * 5
    assert one.table.calls == [["a"]] * 5


async def test_many_own_clients_are_served_in_several_turns(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "ROUND_JOBS", 4)
    clients = [f"c{n}" for n in range(10)]
    own = await world.box("own", *clients)
    world.router(own).route([world.out.job(client, client) for client in clients])
    await world.out.of(*clients)
    assert [len(call) for call in own.table.calls] == [4, 4, 2]


async def test_high_goes_first_within_a_turn(world: World) -> None:
    own = await world.box("own", "a", "b")
    route = world.router(own).route
    route([world.out.job("a", "low", Priority.LOW), world.out.job("b", "high", Priority.HIGH)])
    await world.out.of("low", "high")
    assert own.table.got == [("b", "high"), ("a", "low")]


# ---- settled without an owner


async def test_what_is_expired_is_not_sent(world: World) -> None:
    one = await world.box("one", "a")
    now_ms = time.time_ns() // 1_000_000
    late, timely = world.out.job("a", "m1", expires_ms=now_ms), world.out.job("a", "m2", expires_ms=now_ms + 60_000)
    world.router().route([late, timely])
    assert await world.out.of("m1", "m2") == [Outcome.EXPIRED, DELIVERED]
    assert one.table.ids("a") == ["m2"]


async def test_what_no_peer_could_take_is_rejected(world: World) -> None:
    await world.box("one", "a")
    world.router().route([world.out.job("a", "m1", payload=bytes(MAX_PAYLOAD_BYTES + 1)), world.out.job("a", "m2")])
    assert await world.out.of("m1", "m2") == [Outcome.REJECTED, DELIVERED]


async def test_the_largest_payload_passes(world: World) -> None:
    await world.box("one", "a" * 255)
    world.router().route([world.out.job("a" * 255, "m" * 255, payload=bytes(MAX_PAYLOAD_BYTES))])
    assert await world.out.of("m" * 255) == [DELIVERED]


async def test_no_lease_is_offline_at_once(world: World) -> None:
    world.router().route(world.out.jobs(("nobody", "m1")))
    assert await world.out.of("m1", timeout_s=4.0) == [OFFLINE]  # a retry ends after 5 s


async def test_a_lease_of_a_dead_node_is_offline(world: World) -> None:
    world.registry.put("a", "crashed")
    world.router().route(world.out.jobs(("a", "m1")))
    assert await world.out.of("m1", timeout_s=4.0) == [OFFLINE]  # a retry ends after 5 s
    assert world.registry.removed == []  # it may be paused, and come back with its lease


async def test_who_removes_the_lease_of_a_dead_node_tells_it_once(world: World) -> None:
    world.registry.put("a", "crashed", epoch=7)
    world.registry.put("b", "crashed", epoch=8)
    told: list[Lease] = []
    routers = [world.router(on_dead=told.append) for _ in range(2)]
    for number, each in enumerate(routers):
        each.route(world.out.jobs(("a", f"a{number}"), ("b", f"b{number}")))
    assert await world.out.of("a0", "b0", "a1", "b1") == [OFFLINE] * 4
    await eventually(lambda: len(world.registry.removed) >= 2)
    routers[0].route(world.out.jobs(("a", "again")))
    assert await world.out.of("again") == [OFFLINE]
    assert sorted(told, key=lambda lease: lease.epoch) == [Lease("a", "crashed", 7), Lease("b", "crashed", 8)]
    assert not world.registry.leases


async def test_nobody_else_is_told_to_be_dead(world: World) -> None:
    """Whose node lives in another region, does not hold the client, or has no lease at all."""
    await world.box("far", "a", region="elsewhere")
    await world.box("near", "c")
    world.registry.put("b", "near")
    told: list[Lease] = []
    route = world.router(on_dead=told.append).route
    route(world.out.jobs(("a", "m1"), ("b", "m2"), ("nobody", "m3"), ("c", "m4")))
    assert await world.out.of("m1", "m2", "m3", "m4") == [OFFLINE, OFFLINE, OFFLINE, DELIVERED]
    world.registry.put("b", "crashed")
    world.registry.lost = True  # leases are being repaired: nothing is certain
    route([world.out.job("b", "m5", deadline_s=asyncio.get_running_loop().time() + 0.3)])
    assert await world.out.of("m5") == [EXPIRED]
    assert told == [] and "b" in world.registry.leases


async def test_an_end_is_told_where_nobody_knows_whether_the_lease_is_removed(world: World) -> None:
    """One shard stops while the leases of a dead node are removed: what the others removed is told as well."""
    await world.box("near")
    for client_id in ("a", "b"):
        world.registry.put(client_id, "crashed")
    told: list[str] = []
    before = world.registry.remove_many

    async def one_shard_stops(leases: Sequence[Lease]) -> list[bool | RegistryUnavailable]:
        world.registry.shards_away = {"b"}
        return await before(leases)

    world.registry.remove_many = one_shard_stops  # type: ignore[method-assign]
    world.router(on_dead=lambda lease: told.append(lease.client_id)).route(world.out.jobs(("a", "m1"), ("b", "m2")))
    assert await world.out.of("m1", "m2") == [OFFLINE, OFFLINE]
    await eventually(lambda: told == ["a", "b"])
    assert set(world.registry.leases) == {"b"}


async def test_a_node_that_is_newer_than_the_last_news_is_found(world: World) -> None:
    await world.box("one", "a")
    route = world.router().route
    route(world.out.jobs(("a", "m1")))
    await world.out.of("m1")
    await world.box("two", "b")
    route(world.out.jobs(("b", "m2")))
    assert await world.out.of("m2") == [DELIVERED]


async def test_another_region_is_offline_here(world: World) -> None:
    far = await world.box("far", "a", region="elsewhere")
    world.router().route(world.out.jobs(("a", "m1")))
    assert await world.out.of("m1", timeout_s=4.0) == [OFFLINE]  # a retry ends after 5 s
    assert far.table.calls == [] and far.server.connections == 0


# ---- stale routes


async def test_a_client_that_moved_is_found_at_its_new_owner(world: World) -> None:
    one, two = await world.box("one"), await world.box("two", "a")
    world.registry.put("a", one, epoch=1)
    stale = world.registry.leases["a"]
    world.registry.after_look_up = lambda: world.registry.put("a", two, epoch=2)
    world.router().route(world.out.jobs(("a", "m1"), ("a", "m2")))
    assert await world.out.of("m1", "m2") == [DELIVERED] * 2
    assert one.table.calls == [["a", "a"]] and two.table.ids("a") == ["m1", "m2"]
    assert world.registry.removed == [stale] and world.registry.leases["a"].node_id == "two"


async def test_a_client_that_is_gone_loses_its_lease_and_is_offline(world: World) -> None:
    one = await world.box("one")
    world.registry.put("a", one)
    world.router().route(world.out.jobs(("a", "m1")))
    assert await world.out.of("m1") == [OFFLINE]
    assert world.registry.leases == {} and len(world.registry.look_ups) == 2


async def test_a_client_that_keeps_moving_is_followed(world: World) -> None:
    """Each miss finds a newer lease: the client is connected all the while, and no miss counts."""
    boxes = [await world.box("one"), await world.box("two")]
    moves = iter(range(2, 6))

    def move() -> None:
        for epoch in moves:
            world.registry.put("a", boxes[epoch % 2], epoch)
            return
        boxes[1].table.clients.add("a")  # at last a delivery is faster

    world.registry.after_look_up = move
    world.registry.put("a", boxes[1], epoch=1)
    world.router().route(world.out.jobs(("a", "m1"), ("a", "m2")))
    assert await world.out.of("m1", "m2") == [DELIVERED] * 2
    assert boxes[1].table.ids("a") == ["m1", "m2"] and len(world.registry.look_ups) == 5


async def test_a_client_that_moved_and_is_not_there_either_is_offline(world: World) -> None:
    one, two = await world.box("one"), await world.box("two")
    world.registry.after_look_up = lambda: world.registry.put("a", two, epoch=2)
    world.registry.put("a", one)
    told: list[Lease] = []
    route = world.router(on_dead=told.append).route
    route(world.out.jobs(("a", "m1")))
    assert await world.out.of("m1") == [OFFLINE]
    assert one.table.calls == [["a"]] and two.table.calls == [["a"]]
    assert len(world.registry.look_ups) == 3
    route(world.out.jobs(("nobody", "m2")))
    assert await world.out.of("m2") == [OFFLINE]
    assert told == [], "its last owner lives"


async def test_a_client_that_moves_for_ever_is_offline_at_the_deadline(world: World) -> None:
    one = await world.box("one")
    epochs = iter(range(2, 1_000_000))
    world.registry.after_look_up = lambda: world.registry.put("a", one, next(epochs))
    world.registry.put("a", one)
    world.router(retry_s=0.1).route(world.out.jobs(("a", "m1")))
    assert await world.out.of("m1") == [OFFLINE]
    assert len(world.registry.look_ups) > 3


async def test_a_lease_that_names_a_processor_is_stale(world: World) -> None:
    world.registry.put("a", "processor")
    world.router().route(world.out.jobs(("a", "m1")))
    assert await world.out.of("m1") == [OFFLINE]


async def test_an_own_lease_without_the_client(world: World) -> None:
    own = await world.box("own")
    world.registry.put("a", own)
    world.router(own).route(world.out.jobs(("a", "m1")))
    assert await world.out.of("m1") == [OFFLINE]
    assert world.registry.leases == {}


async def test_what_comes_during_a_look_up_is_not_judged_by_it(world: World) -> None:
    """The client may have opened in between, and whoever sees it open must reach it."""
    one = await world.box("one")
    made = world.router()

    def later() -> None:
        world.registry.after_look_up = None
        one.table.clients.add("a")
        world.registry.put("a", one)
        made.route(world.out.jobs(("a", "after")))

    world.registry.after_look_up = later
    made.route(world.out.jobs(("a", "before")))
    assert await world.out.of("before", "after") == [OFFLINE, DELIVERED]


# ---- forget, stop, locate


async def test_forgotten_jobs_are_neither_sent_nor_settled(world: World) -> None:
    one = await world.box("one", "a", "b")
    world.registry.away = True
    made = world.router()
    jobs = world.out.jobs(("a", "m1"), ("a", "m2"), ("b", "m3"))
    made.route(jobs)
    await eventually(lambda: made.parked == 3)
    assert made.forget([jobs[0], jobs[2]]) == [jobs[0], jobs[2]]
    assert made.forget(jobs[:1]) == [] and made.parked == 1
    world.registry.away = False
    assert await world.out.of("m2") == [DELIVERED]
    assert one.table.got == [("a", "m2")] and set(world.out.by_id) == {"m2"}


async def test_jobs_forgotten_during_their_look_up(world: World) -> None:
    one = await world.box("one", "a", "b")
    world.registry.gate = asyncio.Event()
    made = world.router()
    jobs = world.out.jobs(("a", "m1"), ("b", "m2"))
    made.route(jobs)
    await eventually(lambda: world.registry.look_ups)
    assert made.forget(jobs[:1]) == jobs[:1]
    world.registry.gate.set()
    assert await world.out.of("m2") == [DELIVERED]
    made.route(world.out.jobs(("a", "m3")))
    assert await world.out.of("m3") == [DELIVERED]
    assert one.table.ids("a") == ["m3"]


async def test_what_is_with_an_owner_is_not_forgotten(world: World) -> None:
    one = await world.box("one", "a")
    one.table.answers["a"] = Outcome.PENDING
    made = world.router()
    jobs = world.out.jobs(("a", "m1"))
    made.route(jobs)
    await eventually(lambda: one.table.waiting)
    assert made.forget(jobs) == []
    one.table.settle()
    assert await world.out.of("m1") == [DELIVERED]


async def test_stop_ends_everything_at_once(world: World) -> None:
    await world.box("one", "a")
    world.registry.gate = asyncio.Event()
    made = world.router()
    made.route(world.out.jobs(("a", "m1")))
    await eventually(lambda: world.registry.look_ups)
    await made.stop()
    assert not made._tasks and world.out.by_id == {}


async def test_nothing_is_left_of_a_client_when_all_is_settled(world: World) -> None:
    one = await world.box("one", "a", "slow")
    one.table.answers["slow"] = Outcome.PENDING
    world.registry.put("moved", one)
    made = world.router()
    made.route(world.out.jobs(("a", "m1"), ("slow", "m2"), ("moved", "m3"), ("nobody", "m4")))
    await world.out.of("m1", "m3", "m4")
    one.table.settle()
    await world.out.of("m2")
    assert len(made._lines) == 0
    assert not made._lot._troubled


async def test_locate_reads_now(world: World) -> None:
    one = await world.box("one", "a")
    world.registry.put("crashed", "no such node")
    made = world.router()
    assert await made.locate("a") == (world.registry.leases["a"], one.node)
    assert await made.locate("crashed") is None
    assert await made.locate("nobody") is None
    world.registry.leases["a2"] = Lease("a2", "one", 1, "ann")
    world.registry.leases["old"] = Lease("old", "no such node", 1, "ann")
    assert await made.locate_user("ann") == [(world.registry.leases["a2"], one.node)]
    assert await made.locate_user("bob") == []
    world.registry.lost = True
    assert await made.locate("a") == (world.registry.leases["a"], one.node)
    for question in (made.locate("nobody"), made.locate("crashed"), made.locate_user("ann"), made.locate_user("bob")):
        with pytest.raises(RegistryUnavailable, match="may be missing"):
            await question
    world.registry.lost = False
    del world.registry.live["one"]
    assert await made.locate("a") is None
    world.registry.away = True
    with pytest.raises(RegistryUnavailable):
        await made.locate("a")


async def test_a_node_is_found_if_it_lives_and_is_of_this_region(world: World) -> None:
    one, _ = await world.box("one", "a"), await world.box("far", region="elsewhere")
    made = world.router()
    assert await made.node("one") == one.node
    assert await made.node("far") is None
    for _ in range(10):
        assert await made.node("dead") is None
    assert (world.registry.node_reads, world.registry.found_nodes) == (1, [["dead"]])
    assert [await made.is_dead(node_id) for node_id in ("one", "far", "dead")] == [False, False, True]


async def test_a_node_that_was_found_is_not_believed_to_live_for_ever(world: World) -> None:
    """By a worker that pushes nothing itself, and asks only who holds the connections that its own replaced."""
    one = await world.box("one")
    made = world.router()
    assert await made.node("one") == one.node and not await made.is_dead("one")
    del world.registry.live["one"]

    async def forgotten() -> bool:
        return await made.node("one") is None and await made.is_dead("one")

    await eventually(forgotten, "the list is read again")


async def test_a_question_under_way_does_not_bring_a_dead_node_back(world: World) -> None:
    await world.box("dead")
    nodes, before, gate = LiveNodes(world.registry), world.registry.find_nodes, asyncio.Event()

    async def slowly(node_ids: Collection[str]) -> dict[str, Node]:
        answer = await before(node_ids)
        await gate.wait()
        return answer

    world.registry.find_nodes = slowly  # type: ignore[method-assign]
    asking = asyncio.create_task(nodes.find(["dead"]))
    await eventually(lambda: world.registry.found_nodes)
    nodes.drop("dead")
    gate.set()
    await asking
    assert nodes.get("dead") is None


async def test_a_read_under_way_does_not_take_a_new_node_away(world: World) -> None:
    nodes = LiveNodes(world.registry)
    before, gate = world.registry.nodes, asyncio.Event()

    async def slowly() -> dict[str, Node]:
        answer = await before()
        await gate.wait()
        return answer

    world.registry.nodes = slowly  # type: ignore[method-assign]
    reading = asyncio.create_task(nodes.read())
    await eventually(lambda: world.registry.node_reads)
    one = await world.box("one")
    await nodes.find(["one"])
    gate.set()
    await reading
    assert nodes.get("one") == one.node


# ---- with the real registry


async def test_over_a_real_registry(valkey: Valkey, world: World) -> None:
    store = Store(valkey.url, name="test")
    registry = RedisRegistry(store, Settings(url=valkey.url))
    await registry.start()
    one, two = await world.box("one", "a"), await world.box("two", "b")
    try:
        for box in (one, two):
            await registry.announce(box.node)
        await registry.register("a", "", "one", 1)
        await registry.register("b", "user", "two", 1)
        await registry.register("moved", "", "one", 1)
        made = Router(registry, world.peers, None, "processor", "local", 5.0, 0.3, BACKOFF_S, 0.01)
        world.routers.append(made)
        made.route(world.out.jobs(("a", "m1"), ("b", "m2"), ("moved", "m3"), ("nobody", "m4")))
        assert await world.out.of("m1", "m2", "m3", "m4") == [DELIVERED, DELIVERED, OFFLINE, OFFLINE]
        assert await registry.look_up(["moved"]) == [None]
        located = await made.locate("b")
        assert located is not None and located[0].user_id == "user" and located[1].id == "two"

        valkey.kill()
        await eventually(lambda: not registry.up)
        made.route(world.out.jobs(("a", "m5"), ("nobody", "m6")))
        await eventually(lambda: made.parked == 2)
        valkey.restart()
        await eventually(lambda: registry.up)
        for box in (one, two):
            await registry.announce(box.node)
        assert await world.out.of("m5", "m6") == [DELIVERED, OFFLINE]

        await two.die()
        made.route(world.out.jobs(("b", "m7")))
        assert await world.out.of("m7") == [OFFLINE]
        assert set(await registry.nodes()) <= {"one"}
    finally:
        await registry.stop()
