"""From the queue to the workers: a real Valkey, real peers and router; workers with a table instead of an engine."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest

from tests.delivery.test_schedule import Waiting
from tests.delivery.test_tally import outcomes, taken
from tests.delivery.world import Box, Memory, caller
from tests.queue.backends import StreamsBackend, message
from tests.support import Valkey, eventually, turns
from zpush._fast.record import Record
from zpush.config.settings import Processor as Settings
from zpush.delivery import fan_out
from zpush.delivery.fan_out import FanOut
from zpush.delivery.processor import LOW_SLICE, TICK_S, WINDOW_BATCHES, Processor
from zpush.delivery.receipts import Receipts
from zpush.delivery.router import Router
from zpush.delivery.tally import Tally
from zpush.protocol.message import Message, Outcome, Priority, Target
from zpush.queue.stream_consumer import StreamConsumer
from zpush.registry.base import Lease, NodeState
from zpush.scoreboard import Scoreboard

HIGH, NORMAL, LOW = Priority


class Line:
    """A processor with everything before and behind it, in this process."""

    def __init__(self, valkey: Valkey) -> None:
        self.queue = StreamsBackend(valkey)
        self.registry = Memory()
        self.row = Scoreboard().rows[1]
        self.peers = caller()
        self.boxes: list[Box] = []
        self.receipts: Receipts | None = None
        self._stops: list[Callable[[], Any]] = []

    async def box(self, name: str, *clients: str, region: str = "local") -> Box:
        box = await Box(name, *clients, region=region).listen()
        self.boxes.append(box)
        self.registry.add(box)
        return box

    async def start(self, retry_s: float = 2.0, node_ttl_s: float = 0.5, **settings: Any) -> Processor:
        options = Settings(retry_s=retry_s, **settings)
        priorities = [Priority.of(p) for p in options.priorities]
        tally = Tally(self.row)
        consumer = await self.queue.consumer(priorities, options.batch, lease_ttl_s=6.0)
        consumer._on_dead = tally.dead
        max_age_s = options.max_age_s
        router = Router(self.registry, self.peers, None, "me", "local", retry_s, node_ttl_s, max_age_s=max_age_s)
        spread = FanOut(self.registry, self.peers, router, "local", retry_s)
        self.processor = Processor(consumer, router, spread, tally, priorities, options, self.receipts)
        self.consumer: StreamConsumer = consumer
        tasks = [asyncio.create_task(each) for each in (self.processor.run(), self.tick())]
        self._stops += [*(partial(cancelled, task) for task in tasks), spread.stop, router.stop]
        self.producer = await self.queue.producer()
        return self.processor

    async def tick(self) -> None:
        """As the process does."""
        while True:
            await asyncio.sleep(TICK_S)
            self.processor.look_again()

    async def push(self, *messages: Message) -> None:
        assert await self.producer.publish(messages) == [None] * len(messages)

    def count(self, outcome: Outcome, priority: Priority = NORMAL) -> int:
        return self.row.get(f"messages_{outcome.label}_{priority.label}")

    async def counted(self, number: int, outcome: Outcome = Outcome.DELIVERED, priority: Priority = NORMAL) -> None:
        await eventually(
            lambda: self.count(outcome, priority) >= number,
            f"{number} {outcome.label}, {self.count(outcome, priority)}",
        )
        assert self.count(outcome, priority) == number

    async def close(self) -> None:
        for stop in self._stops:
            await stop()
        await self.queue.close()
        await self.peers.stop()
        for box in self.boxes:
            await box.die()


async def cancelled(task: asyncio.Task[None]) -> None:
    """Ends it; what it failed with before fails the test."""
    if not task.done():
        task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(result, asyncio.CancelledError), result


@pytest.fixture
async def line(valkey: Valkey) -> AsyncIterator[Line]:
    made = Line(valkey)
    yield made
    await made.close()


async def test_messages_reach_their_clients_in_order_and_are_counted(line: Line) -> None:
    one, two = await line.box("one", "a", "b"), await line.box("two", "c")
    await line.start()
    sent = [message("abc"[i % 3]) for i in range(300)]
    await line.push(*sent)
    await line.counted(300)
    for client, box in (("a", one), ("b", one), ("c", two)):
        assert box.table.ids(client) == [m.id for m in sent if m.key == client]
    assert outcomes(line.row, NORMAL) == taken(line.row, NORMAL) == line.row.get("taken_normal") == 300
    assert (
        sum(line.row.get(f"delivery_normal_le_{b}") for b in (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5))
        > 0
    )
    await eventually(line.queue.empty)
    assert line.processor.in_flight == 0


async def test_outcomes_other_than_delivered(line: Line) -> None:
    box = await line.box("one", "slow", "fast")
    box.table.answers["slow"] = Outcome.DROPPED
    await line.start(max_age_s=30)
    now_ms = time.time_ns() // 1_000_000
    await line.push(
        message("nobody"),
        message("slow"),
        message("fast", expires_ms=now_ms - 1),
        message("fast", expires_ms=now_ms + 60_000),
    )
    await line.counted(1, Outcome.OFFLINE)
    await line.counted(1, Outcome.DROPPED)
    await line.counted(1, Outcome.EXPIRED)
    await line.counted(1, Outcome.DELIVERED)
    await eventually(line.queue.empty)


async def test_a_message_without_ttl_that_is_too_old_is_expired(line: Line) -> None:
    await line.box("one", "a")
    old = f"{time.time_ns() // 1_000_000 - 5_000}-0"
    stream = line.queue.layout.stream(NORMAL, line.queue.layout.partition_of("a"))
    expires = time.time_ns() // 1_000_000 + 60_000
    await line.queue.redis.xadd(stream, {"key": "a", "payload": "old"}, id=old)
    await line.queue.redis.xadd(
        stream, {"key": "a", "payload": "has a ttl", "expires": str(expires)}, id=old[:-1] + "1"
    )
    await line.start(max_age_s=2)
    await line.counted(1, Outcome.EXPIRED)
    await line.counted(1, Outcome.DELIVERED)


async def test_what_waits_in_a_write_buffer_is_not_finished(line: Line) -> None:
    box = await line.box("one", "a")
    box.table.answers["a"] = Outcome.PENDING
    await line.start()
    await line.push(message("a"), message("a"))
    await eventually(lambda: len(box.table.waiting) == 2)
    assert (await line.queue.lag()).messages == 2 == line.processor.in_flight
    box.table.settle()
    await line.counted(2)
    await eventually(line.queue.empty)


async def test_a_user_is_all_of_its_devices(line: Line) -> None:
    box = await line.box("one", "phone", "tablet", "other")
    for client in ("phone", "tablet"):
        line.registry.leases[client] = Lease(client, "one", 1, "u1")
    await line.start()
    sent = [message("u1", target=Target.USER) for _ in range(20)]
    await line.push(*sent, message("nobody", target=Target.USER))
    await line.counted(40)
    await line.counted(1, Outcome.OFFLINE)
    for client in ("phone", "tablet"):
        assert box.table.ids(client) == [m.id for m in sent]
    assert box.table.ids("other") == []
    await eventually(line.queue.empty)
    assert taken(line.row, NORMAL) == outcomes(line.row, NORMAL) == 41


async def test_a_users_devices_are_looked_for_while_leases_are_being_written_again(line: Line) -> None:
    box = await line.box("one", "phone", "tablet")
    line.registry.leases.clear()
    line.registry.say(box, NodeState.REPAIRING)
    line.registry.leases["phone"] = Lease("phone", "one", 1, "u1")
    await line.start()
    await line.push(message("u1", target=Target.USER))
    await line.counted(1)
    line.registry.leases["tablet"] = Lease("tablet", "one", 1, "u1")
    await line.counted(2)
    line.registry.say(box, NodeState.UP)
    await eventually(line.queue.empty)
    assert len(box.table.got) == 2, "nobody got it twice"


async def test_a_users_device_that_was_closed_is_not_counted(line: Line) -> None:
    """It stands in the index until it expires there. One whose worker is dead is not connected either."""
    box = await line.box("one", "phone")
    line.registry.leases["phone"] = Lease("phone", "one", 1, "u1")
    line.registry.leases["tv"] = Lease("tv", "dead", 1, "u1")
    line.registry.entries["u1"] = ["phone", "tablet", "tv"]
    await line.start()
    await line.push(message("u1", target=Target.USER))
    await line.counted(1)
    await eventually(line.queue.empty)
    assert taken(line.row, NORMAL) == 1 and box.table.calls == [["phone"]]
    del line.registry.leases["phone"]
    await line.push(message("u1", target=Target.USER))
    await line.counted(1, Outcome.OFFLINE)


async def test_all_is_everybody_once(line: Line) -> None:
    boxes = [await line.box("one", "a", "b"), await line.box("two", "c"), await line.box("three")]
    await line.start()
    sent = message("", "news", target=Target.ALL)
    await line.push(sent)
    await line.counted(3)
    await eventually(line.queue.empty)
    assert [len(b.table.broadcasts) for b in boxes] == [1, 1, 1]
    await line.push(sent)  # as a redelivery would
    await line.counted(1, Outcome.OFFLINE)
    assert [len(b.table.broadcasts) for b in boxes] == [1, 1, 1]


async def test_all_is_everybody_of_this_region(line: Line) -> None:
    """Regions that share a registry know each other's workers; each has the message from its own queue."""
    near, far = await line.box("near", "a"), await line.box("far", "b", region="elsewhere")
    await line.start()
    await line.push(message("", "news", target=Target.ALL), message("b"))
    await line.counted(1)
    await line.counted(1, Outcome.OFFLINE)
    await eventually(line.queue.empty)
    assert len(near.table.broadcasts) == 1
    assert far.table.broadcasts == far.table.calls == [] and far.server.connections == 0


async def test_a_node_that_is_away_is_tried_again_for_all(line: Line) -> None:
    one, two = await line.box("one", "a"), await line.box("two", "b")
    two.server.close()
    two.table.counting = asyncio.get_running_loop().create_future()
    await line.start()
    await line.push(message("", "news", target=Target.ALL))
    await eventually(lambda: two.table.broadcasts)
    assert line.count(Outcome.DELIVERED) == 0, "counted as a whole"
    two.table.counting.set_result({int(Outcome.DELIVERED): 1})
    await line.counted(2)
    assert len(one.table.broadcasts) == 1


async def test_what_expires_before_its_turn_is_sent_to_nobody(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many are under way at a time; the slowest consumer of each may hold it up for half a minute."""
    monkeypatch.setattr(fan_out, "BROADCASTS", 1)
    one = await line.box("one", "a")
    one.table.counting = asyncio.get_running_loop().create_future()
    processor = await line.start()
    in_an_hour_ms = time.time_ns() // 1_000_000 + 3_600_000
    await line.push(message("", "slow", target=Target.ALL))
    await eventually(lambda: one.table.broadcasts)
    await line.push(message("", "news", target=Target.ALL, expires_ms=in_an_hour_ms))
    await eventually(lambda: processor.in_flight == 2, "it waits for its turn")
    monkeypatch.setattr(Router, "end_s", lambda *_: 0.0)  # an hour later
    one.table.counting.set_result({int(Outcome.DELIVERED): 1})
    await line.counted(1, Outcome.EXPIRED)
    assert len(one.table.broadcasts) == 1


async def test_what_has_expired_is_not_tried_again(line: Line) -> None:
    """A worker that has another secret is tried for processor.retry, or until the TTL is over."""
    stranger = await Box("stranger", secret=b"a secret of its own").listen()
    line.boxes.append(stranger)
    line.registry.add(stranger)
    await line.start(retry_s=3600.0)
    await line.push(message("", "news", target=Target.ALL, expires_ms=time.time_ns() // 1_000_000 + 2_000))
    await line.counted(1, Outcome.OFFLINE)


async def test_high_passes_a_backlog_of_low(line: Line) -> None:
    box = await line.box("one", *(f"c{i}" for i in range(50)))
    box.table.answers = {f"c{i}": Outcome.PENDING for i in range(50)}
    line.producer = await line.queue.producer()
    await line.push(*(message(f"c{i % 50}", priority=LOW) for i in range(2000)))
    await line.start(batch=20)
    await eventually(lambda: len(box.table.waiting) == WINDOW_BATCHES * 20, "low fills its window")
    box.table.answers = {}
    urgent = [message("c1", priority=HIGH) for _ in range(10)]
    await line.push(*urgent)
    await line.counted(10, priority=HIGH)
    assert (await line.queue.lag(LOW)).messages == 2000, "and low is where it was"
    assert line.processor.in_flight < 2 * WINDOW_BATCHES * 20
    box.table.settle()
    await eventually(lambda: line.queue.empty(LOW), "low goes on")


async def test_lower_priorities_are_taken_in_slices(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that high ones are looked for in between, and come in: a draw is made in a turn of the loop's own."""
    sizes: dict[Priority, list[int]] = {priority: [] for priority in Priority}
    in_turns: Counter[tuple[Priority, int]] = Counter()
    take = StreamConsumer.take

    def seen(consumer: StreamConsumer, priority: Priority, limit: int) -> list[Record]:
        records = take(consumer, priority, limit)
        sizes[priority].append(len(records))
        in_turns[priority, had()] += len(records)
        return records

    monkeypatch.setattr(StreamConsumer, "take", seen)
    await line.box("one", "c1")
    line.producer = await line.queue.producer()
    await line.push(*(message("c1", priority=priority) for priority in Priority for _ in range(300)))
    with turns() as had:
        await line.start(batch=500)
        for priority in Priority:
            await line.counted(300, priority=priority)
    assert max(sizes[NORMAL] + sizes[LOW]) <= LOW_SLICE < max(sizes[HIGH])
    assert max(count for (priority, _), count in in_turns.items() if priority is not HIGH) <= 2 * LOW_SLICE


async def test_low_has_the_floor_that_is_set(line: Line) -> None:
    """At the start, and when another one is used."""
    processor = await line.start(low_floor=0.2)
    for floor, shares in ((0.2, [64, 16, 20]), (0.5, [25, 25, 50]), (0.0, [100, 0, 0])):
        if floor != 0.2:
            processor.use(Settings(low_floor=floor))
        waiting = Waiting(high=100, normal=100, low=100)
        processor._schedule.draw(100, waiting.take)
        assert [waiting.taken[priority] for priority in Priority] == shares


async def test_parked_messages_do_not_fill_the_window(line: Line) -> None:
    gone, here = await line.box("gone", *(f"g{i}" for i in range(40))), await line.box("here", "h")
    await gone.die()
    gone.server = None  # type: ignore[assignment]
    line.boxes.remove(gone)
    line.registry.say(here, NodeState.REPAIRING)  # so that a miss is transient
    await line.start(batch=10, retry_s=30)
    await line.push(*(message(f"g{i % 40}") for i in range(400)))
    await line.push(*(message("h") for _ in range(10)))
    await line.counted(10)
    line.registry.leases.clear()
    line.registry.say(here, NodeState.UP)
    await line.counted(400, Outcome.OFFLINE)
    await eventually(line.queue.empty)


async def test_a_registry_that_is_away_delays_and_loses_nothing(line: Line) -> None:
    box = await line.box("one", "a")
    line.registry.away = True
    await line.start(retry_s=0.1)
    sent = [message("a") for _ in range(50)]
    await line.push(*sent, message("", target=Target.ALL), message("u1", target=Target.USER))
    await eventually(lambda: line.processor.in_flight == 52)
    seen = len(line.registry.look_ups)
    await eventually(lambda: len(line.registry.look_ups) >= seen + 5, "longer than a retry lasts")
    assert outcomes(line.row, NORMAL) == 0
    line.registry.away = False
    line.registry.leases["a"] = Lease("a", "one", 1, "u1")
    line.registry.reconnect()
    await line.counted(52)
    assert [i for i in box.table.ids("a") if i in {m.id for m in sent}] == [m.id for m in sent]


async def test_a_queue_waits_where_most_would_only_be_parked(line: Line) -> None:
    """While leases may be missing, whoever is not found waits: in the queue, before the lot has no room."""
    box = await line.box("one", *(f"g{i}" for i in range(40)))
    leases, line.registry.leases = line.registry.leases, {}
    line.registry.say(box, NodeState.REPAIRING)
    await line.start(batch=10, retry_s=0.1)
    line.processor._router._lot._max_jobs = 300
    await line.push(*(message(f"g{i % 40}") for i in range(400)))
    await eventually(lambda: line.processor._router.parked >= 150, "the lot is half full")
    seen = len(line.registry.look_ups)
    await eventually(lambda: len(line.registry.look_ups) >= seen + 5)
    assert outcomes(line.row, NORMAL) == 0
    assert (await line.queue.lag(NORMAL)).messages == 400 and line.processor.in_flight < 400
    line.registry.leases = leases
    line.registry.say(box, NodeState.UP)
    await line.counted(400)
    await eventually(line.queue.empty)


async def test_who_is_to_get_it_never_becomes_known(line: Line) -> None:
    line.registry.away = True
    await line.start(max_age_s=1)
    await line.push(message("a"), message("", target=Target.ALL), message("u1", target=Target.USER))
    await line.counted(3, Outcome.EXPIRED)
    await eventually(line.queue.empty)
    assert taken(line.row, NORMAL) == outcomes(line.row, NORMAL) == 3


async def test_garbage_is_rejected_and_counted(line: Line) -> None:
    await line.box("one", "a")
    await line.start()
    await line.queue.inject(NORMAL, 0, {"payload": b"to nobody"})
    await line.push(message("a"))
    await line.counted(1)
    await line.counted(1, Outcome.REJECTED)
    assert line.row.get("dead_normal") == 1
    assert taken(line.row, NORMAL) == 2 == outcomes(line.row, NORMAL)


async def test_a_lost_partition_is_forgotten_and_another_processor_goes_on(line: Line) -> None:
    box = await line.box("one", "a")
    line.registry.away = True
    first = await line.start(retry_s=30)
    sent = [message("a") for _ in range(30)]
    await line.push(*sent)
    await eventually(lambda: first.in_flight == 30)
    lost = asyncio.Event()
    line.consumer.on_revoked(lambda priority, partition: lost.set())
    stream = line.queue.layout.stream(NORMAL, line.queue.layout.partition_of("a"))
    await line.queue.redis.delete(f"{{{stream}}}:reader")
    await asyncio.wait_for(lost.wait(), 30)
    line.registry.away = False
    await eventually(line.queue.empty, "read again and delivered")
    assert box.table.ids("a") == [m.id for m in sent], "once each: parked ones were forgotten, not delivered twice"
    assert line.row.get("redelivered_normal") == 30 == line.count(Outcome.DELIVERED)
    assert first.in_flight == 0
