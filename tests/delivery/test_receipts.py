"""What a processor tells senders: every outcome once, and no record finished before its receipts are written."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

import pytest

from tests.delivery.test_processor import Line
from tests.delivery.test_tally import begun
from tests.queue.backends import message
from tests.support import Valkey, eventually
from zpush._fast.record import Record
from zpush.config.settings import Queue
from zpush.delivery.receipts import Receipts
from zpush.delivery.tally import Tally
from zpush.protocol.message import Outcome, Priority, Target
from zpush.queue.open import open_receipt_reader, open_receipt_writer
from zpush.queue.receipt import Receipt
from zpush.registry.base import Lease

HIGH, NORMAL, LOW = Priority


class Gate:
    """A writer behind a gate. refuse: what arrives is given up."""

    def __init__(self, writer: object) -> None:
        self._writer = writer
        self.open = True
        self.refuse = False
        self.held: list[tuple[Receipt, Callable[[bool], None]]] = []

    async def start(self) -> None:
        await self._writer.start()  # type: ignore[attr-defined]

    async def stop(self) -> None:
        await self._writer.stop()  # type: ignore[attr-defined]

    def write(self, receipt: Receipt, done: Callable[[bool], None]) -> None:
        if self.refuse:
            done(False)
        elif self.open:
            self._writer.write(receipt, done)  # type: ignore[attr-defined]
        else:
            self.held.append((receipt, done))

    def let_through(self) -> None:
        self.open = True
        held, self.held = self.held, []
        for each in held:
            self.write(*each)


class Told:
    """A line whose processor writes receipts, and what a sender reads of them."""

    def __init__(self, line: Line, valkey: Valkey) -> None:
        self.line = line
        self.queue, self.url = Queue(partitions=line.queue.layout.partitions), valkey.url
        self.gate = Gate(open_receipt_writer(self.queue, self.url))
        line.receipts = Receipts(self.gate, "eu", line.row)

    async def of(self, id: str) -> list[Receipt]:
        reader = open_receipt_reader(self.queue, self.url)
        await reader.start()
        try:
            return [each async for each in reader.read(id, 0, follow=False)]
        finally:
            await reader.stop()

    async def written(self, number: int, lost: int = 0) -> None:
        await eventually(lambda: self.line.row.get("receipts_written") >= number, f"{number} receipts")
        assert self.line.row.get("receipts_written") == number
        assert self.line.row.get("receipts_lost") == lost


@pytest.fixture
async def told(valkey: Valkey) -> AsyncIterator[Told]:
    line = Line(valkey)
    made = Told(line, valkey)
    await made.gate.start()
    yield made
    await line.close()
    await made.gate.stop()


async def test_each_outcome_has_its_receipt(told: Told) -> None:
    line = told.line
    box = await line.box("one", "fast", "slow")
    box.table.answers["slow"] = Outcome.DROPPED
    await line.start()
    begin_ms = time.time_ns() // 1_000_000
    sent = {
        "fast": message("fast", priority=HIGH),
        "slow": message("slow"),
        "nobody": message("nobody"),
        "late": message("fast", expires_ms=begin_ms - 1),
    }
    await line.push(*sent.values())
    await told.written(4)
    (delivered,) = await told.of(sent["fast"].id)
    assert (delivered.client, delivered.outcome, delivered.priority) == ("fast", "delivered", "high")
    assert (delivered.node, delivered.region, delivered.redelivered) == ("one", "eu", False)
    assert begin_ms <= delivered.queued_ms <= delivered.settled_ms <= time.time_ns() // 1_000_000
    outcomes = {name: [(r.client, r.outcome, r.node) for r in await told.of(each.id)] for name, each in sent.items()}
    assert outcomes["slow"] == [("slow", "dropped", "one")]
    assert outcomes["nobody"] == [("nobody", "offline", "")]
    assert outcomes["late"] == [("fast", "expired", "")]
    await eventually(line.queue.empty)


async def test_a_late_outcome_has_its_owner_too(told: Told) -> None:
    box = await told.line.box("one", "a")
    box.table.answers["a"] = Outcome.PENDING
    await told.line.start()
    sent = message("a")
    await told.line.push(sent)
    await eventually(lambda: box.table.waiting)
    late_ms = time.time_ns() // 1_000_000 + 1
    await eventually(lambda: time.time_ns() // 1_000_000 >= late_ms)
    box.table.settle(Outcome.DROPPED)
    await told.written(1)
    [receipt] = await told.of(sent.id)
    assert (receipt.outcome, receipt.node) == ("dropped", "one")
    assert receipt.queued_ms < late_ms <= receipt.settled_ms


async def test_a_user_has_one_for_each_client(told: Told) -> None:
    line = told.line
    await line.box("one", "phone")
    await line.box("two", "tablet")
    for client, node in (("phone", "one"), ("tablet", "two")):
        line.registry.leases[client] = Lease(client, node, 1, "u1")
    await line.start()
    sent, to_nobody = message("u1", target=Target.USER), message("u2", target=Target.USER)
    await line.push(sent, to_nobody)
    await told.written(3)
    receipts = await told.of(sent.id)
    assert {(r.client, r.user, r.outcome, r.node) for r in receipts} == {
        ("phone", "u1", "delivered", "one"),
        ("tablet", "u1", "delivered", "two"),
    }
    assert [(r.client, r.user, r.outcome) for r in await told.of(to_nobody.id)] == [("", "u2", "offline")]
    await eventually(line.queue.empty)


async def test_all_has_one_with_counts(told: Told) -> None:
    await told.line.box("one", "a", "b")
    await told.line.box("two", "c")
    await told.line.start()
    sent = message("", target=Target.ALL)
    await told.line.push(sent)
    await told.written(1)
    assert [(r.counts, r.outcome, r.client) for r in await told.of(sent.id)] == [({"delivered": 3}, "", "")]
    await eventually(told.line.queue.empty)


async def test_a_record_is_finished_when_its_receipts_are_written(told: Told) -> None:
    """But its outcome is known, and counted, before."""
    line = told.line
    await line.box("one", "a", "b")
    line.registry.leases["a"] = Lease("a", "one", 1, "u1")
    line.registry.leases["b"] = Lease("b", "one", 1, "u1")
    await line.start()
    told.gate.open = False
    sent = [message("a"), message("u1", target=Target.USER), message("", target=Target.ALL)]
    await line.push(*sent)
    await eventually(lambda: len(told.gate.held) == 4)
    assert line.count(Outcome.DELIVERED) == 1 + 2 + 2
    assert (await line.queue.lag()).messages == 3 == line.processor.in_flight
    told.gate.let_through()
    await eventually(line.queue.empty)
    await told.written(4)
    assert line.processor.in_flight == 0


async def test_what_dies_before_its_receipt_is_told_again(told: Told) -> None:
    line = told.line
    box = await line.box("one", "a")
    await line.start()
    told.gate.open = False
    sent = message("a")
    await line.push(sent)
    await eventually(lambda: told.gate.held)
    stream = line.queue.layout.stream(NORMAL, line.queue.layout.partition_of("a"))
    await line.queue.redis.delete(f"{{{stream}}}:reader")  # the partition is lost, and taken again
    await eventually(lambda: len(told.gate.held) == 2, "it is read again")
    told.gate.let_through()
    await eventually(line.queue.empty)
    assert box.table.ids("a") == [sent.id] * 2
    assert [(r.outcome, r.redelivered) for r in await told.of(sent.id)] == [("delivered", False), ("delivered", True)]


async def test_receipts_that_are_refused_stop_nothing_and_are_counted(told: Told) -> None:
    line = told.line
    box = await line.box("one", "a")
    told.gate.refuse = True
    await line.start()
    sent = [message("a") for _ in range(20)]
    await line.push(*sent)
    await line.counted(20)
    await eventually(line.queue.empty)
    assert box.table.ids("a") == [each.id for each in sent]
    await told.written(0, lost=20)


async def test_another_regions_message_needs_none(told: Told) -> None:
    assert told.line.receipts is not None
    await told.line.start()
    record = Record(message("a"), NORMAL, 0, b"1-1")
    work, under_way = begun(record, Tally(told.line.row), told.line.receipts)
    work.settle(Outcome.ELSEWHERE, "")
    assert under_way.collect() == [record]
    await told.written(0)


async def test_what_waits_for_its_receipt_counts_as_under_way(told: Told) -> None:
    """So a server that takes no receipts is not flooded: no more is taken than may be under way."""
    line = told.line
    await line.box("one", "a")
    told.gate.open = False
    await line.start(batch=5)
    await line.push(*(message("a") for _ in range(200)))
    await eventually(lambda: len(told.gate.held) == 50, "ten batches")
    told.gate.let_through()
    await line.counted(200)
    await eventually(line.queue.empty)
