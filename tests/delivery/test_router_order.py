"""A client's messages of one priority arrive in order, whatever happens between them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from tests.delivery.world import Box, World
from tests.support import eventually
from zpush._fast.job import Job
from zpush.delivery import router
from zpush.delivery.router import Router
from zpush.protocol.message import Outcome, Priority
from zpush.registry.base import NodeState

DELIVERED, OFFLINE = Outcome.DELIVERED, Outcome.OFFLINE


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.stop()


async def test_a_later_batch_does_not_overtake_one_in_its_look_up(world: World) -> None:
    one = await world.box("one", "a", "b")
    gate = world.registry.gate = asyncio.Event()
    made = world.router()
    made.route(world.out.jobs(("a", "m1")))
    await eventually(lambda: world.registry.look_ups)
    world.registry.gate = None
    made.route(world.out.jobs(("a", "m2"), ("b", "m3")))
    assert await world.out.of("m3") == [DELIVERED]  # others pass
    assert one.table.ids("a") == []
    gate.set()
    assert await world.out.of("m1", "m2") == [DELIVERED] * 2
    assert one.table.ids("a") == ["m1", "m2"]


async def test_what_did_not_fit_into_a_turn_does_not_overtake_what_did(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker tries its own clients first, a turn's worth of messages: what is over stands in line meanwhile."""
    monkeypatch.setattr(router, "ROUND_JOBS", 4)
    own, other = await world.box("own", "here"), await world.box("other", "a", "b")
    ids = [f"m{n}" for n in range(12)]
    world.router(own).route(world.out.jobs(*((("here", "a", "b")[n % 3], ids[n]) for n in range(12))))
    assert await world.out.of(*ids) == [DELIVERED] * 12
    assert (own.table.ids("here"), other.table.ids("a"), other.table.ids("b")) == (ids[::3], ids[1::3], ids[2::3])


async def test_a_later_batch_does_not_overtake_one_that_waits_for_its_retry(world: World) -> None:
    one = await world.box("one", "a", "b")
    world.registry.away = True
    made = world.router()
    made.route(world.out.jobs(("a", "m1"), ("a", "m2")))
    await eventually(lambda: made.parked == 2)
    world.registry.away = False
    made.route(world.out.jobs(("a", "m3"), ("b", "m4")))
    assert await world.out.of("m1", "m2", "m3", "m4") == [DELIVERED] * 4
    assert one.table.ids("a") == ["m1", "m2", "m3"]


async def test_a_later_batch_does_not_overtake_a_stale_route(world: World) -> None:
    """m1 goes to the old owner; m2 is routed while m1 is on its way, and must not go to the new one before it."""
    one, two = await world.box("one"), await world.box("two", "a")
    world.registry.put("a", one)
    made = world.router()
    deliver = one.table.deliver

    def moved_meanwhile(*args: object) -> bytes:
        world.registry.put("a", two, epoch=2)
        made.route(world.out.jobs(("a", "m2")))
        return deliver(*args)  # type: ignore[arg-type]

    one.table.deliver = moved_meanwhile  # type: ignore[method-assign]
    made.route(world.out.jobs(("a", "m1")))
    assert await world.out.of("m1", "m2") == [DELIVERED] * 2
    assert two.table.ids("a") == ["m1", "m2"] and one.table.got == []


async def test_a_connection_that_becomes_local_does_not_overtake(world: World) -> None:
    """The client moves from another worker to this one while its first message is on its way there."""
    own, other = await world.box("own"), await world.box("other")
    world.registry.put("a", other)
    made = world.router(own)
    deliver = other.table.deliver

    def moves(*args: object) -> bytes:
        own.table.clients.add("a")
        world.registry.put("a", own, epoch=2)
        made.route(world.out.jobs(("a", "m2")))
        return deliver(*args)  # type: ignore[arg-type]

    other.table.deliver = moves  # type: ignore[method-assign]
    made.route(world.out.jobs(("a", "m1")))
    assert await world.out.of("m1", "m2") == [DELIVERED] * 2
    assert own.table.ids("a") == ["m1", "m2"]


async def test_what_waits_in_a_write_buffer_is_not_overtaken_at_another_owner(world: World) -> None:
    one, two = await world.box("one", "a"), await world.box("two", "a")
    world.registry.put("a", one)
    one.table.answers["a"] = Outcome.PENDING
    made = world.router()
    made.route(world.out.jobs(("a", "m1")))
    await eventually(lambda: one.table.waiting)
    world.registry.put("a", two, epoch=2)
    made.route(world.out.jobs(("a", "m2")))
    await eventually(lambda: made.parked == 1)
    assert two.table.got == []
    one.table.settle(Outcome.DROPPED)  # its connection there was replaced
    assert await world.out.of("m1", "m2") == [Outcome.DROPPED, DELIVERED]
    assert two.table.ids("a") == ["m2"]


async def test_what_waited_in_a_lost_workers_write_buffer_goes_first_to_the_new_owner(world: World) -> None:
    one, two = await world.box("one", "a"), await world.box("two", "a")
    world.registry.put("a", one)
    one.table.answers["a"] = Outcome.PENDING
    made = world.router()
    for ids in (("m1", "m2"), ("m3",)):
        made.route(world.out.jobs(*(("a", id) for id in ids)))
        await eventually(lambda ids=ids: [i for _, i, _, _ in one.table.waiting][-1:] == [ids[-1]])
    world.registry.put("a", two, epoch=2)
    made.route(world.out.jobs(("a", "m4")))
    await eventually(lambda: made.parked == 1)
    await one.die()
    assert await world.out.of("m1", "m2", "m3", "m4") == [DELIVERED] * 4
    assert two.table.ids("a") == ["m1", "m2", "m3", "m4"]


async def test_an_owner_lost_while_the_next_message_is_in_its_look_up(world: World) -> None:
    """What waited in the write buffer stands in front again, in the line that the look-up holds already."""
    one, two = await world.box("one", "a"), await world.box("two", "a")
    world.registry.put("a", one)
    one.table.answers["a"] = Outcome.PENDING
    made = world.router(backoff_s=(1.0,))  # what is parked stays so
    made.route(world.out.jobs(("a", "m1")))
    await eventually(lambda: one.table.waiting)
    gate = world.registry.gate = asyncio.Event()
    made.route(world.out.jobs(("a", "m2")))
    await eventually(lambda: len(world.registry.look_ups) == 2)
    await one.die()
    line = made._lines.get(Priority.NORMAL, "a")
    assert line is not None
    await eventually(lambda: len(line.jobs) == 2)
    assert made.parked == 0
    world.registry.put("a", two, epoch=2)
    gate.set()
    assert await world.out.of("m1", "m2") == [DELIVERED] * 2
    assert two.table.calls == [["a", "a"]] and two.table.ids("a") == ["m1", "m2"]


async def test_one_that_is_given_up_does_not_take_later_ones_with_it(world: World) -> None:
    one = await world.box("one", "a")
    world.registry.away = True
    made = world.router()
    soon_s = asyncio.get_running_loop().time() + 0.03
    made.route([world.out.job("a", "m1"), world.out.job("a", "m2", deadline_s=soon_s), world.out.job("a", "m3")])
    assert await world.out.of("m2") == [Outcome.EXPIRED]
    world.registry.away = False
    assert await world.out.of("m1", "m3") == [DELIVERED] * 2
    assert one.table.ids("a") == ["m1", "m3"]


async def test_a_parked_low_message_does_not_stand_in_front_of_a_high_one(world: World) -> None:
    one = await world.box("one", "a")
    gate = world.registry.gate = asyncio.Event()
    made = world.router()
    made.route([world.out.job("a", "low", Priority.LOW)])
    await eventually(lambda: world.registry.look_ups)
    world.registry.gate = None
    made.route([world.out.job("a", "high", Priority.HIGH)])
    assert await world.out.of("high") == [DELIVERED]
    gate.set()
    assert await world.out.of("low") == [DELIVERED]
    assert one.table.ids("a") == ["high", "low"]


@pytest.mark.parametrize("own", [False, True])
async def test_settling_may_route_more(world: World, own: bool) -> None:
    """A sender that reacts to an outcome from within settle()."""
    one = await world.box("one", "a")
    made = world.router(one if own else None)
    first = world.out.job("a", "m1")
    first.and_then = lambda: made.route(world.out.jobs(("a", "m3")))
    made.route([first, world.out.job("a", "m2")])
    assert await world.out.of("m1", "m2", "m3") == [DELIVERED] * 3
    assert one.table.ids("a") == ["m1", "m2", "m3"]


class Chaos:
    """Clients that move, come and go; connections that break; a registry that fails; batches all the while."""

    CLIENTS = tuple(f"c{n}" for n in range(12))

    def __init__(self, world: World, boxes: list[Box], made: Router, seed: int) -> None:
        self.world = world
        self.boxes = boxes
        self.made = made
        self.random = random.Random(seed)
        self.sent: dict[tuple[str, Priority], list[str]] = {}
        self.got: dict[tuple[str, Priority], list[str]] = {}
        self.epoch = 1
        for box in boxes:
            self._watch(box)
        for client in self.CLIENTS:
            self._move(client)

    def _watch(self, box: Box) -> None:
        """Deliveries in the order in which any box makes them; a box's clients are sometimes slow."""
        deliver = box.table.deliver

        def watched(entries: list, settled: object) -> bytes:  # type: ignore[type-arg]
            outcomes = deliver(entries, settled)  # type: ignore[arg-type]
            for entry, outcome in zip(entries, outcomes, strict=True):
                if outcome in (Outcome.DELIVERED, Outcome.PENDING):
                    client, priority, _ = entry.id.split(".")
                    self.got.setdefault((client, Priority(int(priority))), []).append(entry.id)
            return outcomes

        box.table.deliver = watched  # type: ignore[method-assign, assignment]

    def _move(self, client: str) -> None:
        for box in self.boxes:
            if client in box.table.clients:
                box.table.clients.discard(client)
                self._drop(box, client)
        home = self.random.choice(self.boxes)
        home.table.clients.add(client)
        self.epoch += 1
        if self.random.random() < 0.9:  # else its registration is late, and nobody finds it
            self.world.registry.put(client, home, self.epoch)

    def _drop(self, box: Box, client: str) -> None:
        """The connection ends: what waited in its write buffer is dropped."""
        mine = [waiting for waiting in box.table.waiting if waiting[0] == client]
        box.table.waiting = [waiting for waiting in box.table.waiting if waiting[0] != client]
        for _, _, index, settled in mine:
            settled([(index, int(Outcome.DROPPED))])

    def _push(self) -> None:
        jobs: list[Job] = []
        for _ in range(self.random.randrange(1, 12)):
            client, priority = self.random.choice(self.CLIENTS), self.random.choice(list(Priority))
            line = self.sent.setdefault((client, priority), [])
            line.append(f"{client}.{int(priority)}.{len(line)}")
            jobs.append(self.world.out.job(client, line[-1], priority))
        self.made.route(jobs)

    def step(self) -> None:
        box = self.random.choice(self.boxes)
        client = self.random.choice(self.CLIENTS)
        registry = self.world.registry
        happens = self.random.random()
        if happens < 0.5:
            self._push()
        elif happens < 0.65:
            self._move(client)
        elif happens < 0.7:
            box.table.answers[client] = self.random.choice([Outcome.PENDING, Outcome.DELIVERED])
        elif happens < 0.8:
            box.table.settle()
        elif happens < 0.85:
            box.server.close()
        elif happens < 0.9:
            registry.away = not registry.away
        elif happens < 0.95:
            registry.say(box, self.random.choice([NodeState.UP, NodeState.REPAIRING]))
        else:
            self.world.peers.forget(box.node.id)

    def calm(self) -> None:
        self.world.registry.away = False
        for box in self.boxes:
            self.world.registry.say(box, NodeState.UP)
            box.table.answers.clear()
            box.table.settle()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("own", [False, True])
async def test_random_interleavings(world: World, seed: int, own: bool) -> None:
    """Each message is settled once. What an owner took arrives in order; sent again it may arrive twice, not late.

    What was called offline after its connection broke may still have been under way: no order is promised for it.
    """
    boxes = [await world.box(name) for name in ("one", "two", "three")]
    made = world.router(boxes[0] if own else None, retry_s=1.0, node_ttl_s=0.05)
    chaos = Chaos(world, boxes, made, seed)
    for _ in range(400):
        chaos.step()
        for _ in range(chaos.random.randrange(4)):
            await asyncio.sleep(0)
    sent = [id for line in chaos.sent.values() for id in line]

    def settled() -> bool:
        chaos.calm()
        return len(world.out.by_id) == len(sent)

    await eventually(settled)
    delivered = {id for id, outcome in world.out.by_id.items() if outcome is DELIVERED}
    assert len(delivered) > len(sent) / 3
    for key, got in chaos.got.items():
        numbers = [int(id.rpartition(".")[2]) for id in got if world.out.by_id[id] is not OFFLINE]
        first = list(dict.fromkeys(numbers))
        assert first == sorted(first), f"{key}: {numbers}"
    assert delivered <= {id for got in chaos.got.values() for id in got}
    await eventually(lambda: len(made._lines) == 0)
    assert made.parked == 0 and not made._lot._troubled


async def test_a_peers_failure_within_forget_is_harmless(world: World) -> None:
    """forget() fails calls before it returns: the router parks them and goes on."""
    one = await world.box("one", "slow", "a")
    one.table.answers["slow"] = Outcome.PENDING
    made = world.router()
    made.route(world.out.jobs(("slow", "m1"), ("a", "m2")))
    await world.out.of("m2")
    one.table.answers.clear()
    world.peers.forget("one")
    assert await world.out.of("m1") == [DELIVERED]
    assert one.table.ids("slow") == ["m1", "m1"]
