"""Outcomes into columns."""

from __future__ import annotations

import time
from collections.abc import Callable

from zpush._fast.record import Record
from zpush._fast.work import UnderWay, Work
from zpush.delivery.receipts import Receipts
from zpush.delivery.tally import Tally
from zpush.protocol.message import Message, Outcome, Priority, Target
from zpush.queue.receipt import Receipt
from zpush.scoreboard import COUNTED_OUTCOMES, DELIVERY_BUCKETS_S, Row, Scoreboard

HIGH = Priority.HIGH


def outcomes(row: Row, priority: Priority) -> int:
    return sum(row.get(f"messages_{o}_{priority.label}") for o in COUNTED_OUTCOMES)


def taken(row: Row, priority: Priority) -> int:
    return row.get(f"taken_{priority.label}") + row.get(f"redelivered_{priority.label}")


def begun(record: Record, tally: Tally, receipts: Receipts | None = None) -> tuple[Work, UnderWay]:
    """A record that is under way, alone."""
    words = Outcome.OFFLINE, Outcome.ELSEWHERE, Outcome.EXPIRED
    under_way = UnderWay(tally.outcomes, receipts, *words, lambda: None)
    jobs, others = under_way.begin([record], max_age_ms=2**62)
    [work] = jobs + others
    return work, under_way


def test_outcomes_equal_what_was_taken_and_redelivered() -> None:
    row = Scoreboard().rows[1]
    tally = Tally(row)
    for i, outcome in enumerate((Outcome.DELIVERED, Outcome.OFFLINE, Outcome.EXPIRED, Outcome.DROPPED)):
        tally.outcomes.settle(HIGH, i % 2 == 1, outcome, 0)
    tally.broadcast(HIGH, False, {int(Outcome.DELIVERED): 7, int(Outcome.DROPPED): 2})
    tally.dead(HIGH, True)
    assert outcomes(row, HIGH) == taken(row, HIGH) == 14
    assert row.get("redelivered_high") == 3
    assert row.get("messages_dropped_high") == 3
    assert row.get("dead_high") == row.get("messages_rejected_high") == 1
    assert outcomes(row, Priority.LOW) == taken(row, Priority.LOW) == 0


def test_a_copy_for_a_client_of_another_region_stands_outside_the_sums() -> None:
    row = Scoreboard().rows[1]
    tally = Tally(row)
    message = Message("m1", "c1", b"x", priority=HIGH)
    for copied in (True, False):
        for outcome in (Outcome.OFFLINE, Outcome.DELIVERED):
            record = Record(message, HIGH, 0, 0, copied=copied)
            work, under_way = begun(record, tally)
            work.settle(outcome, "")
            assert under_way.collect() == [record]
    assert row.get("messages_elsewhere_high") == 1
    assert row.get("messages_offline_high") == 1
    assert row.get("messages_delivered_high") == 2
    assert taken(row, HIGH) == 3


def test_a_copied_all_that_finds_nobody_does_too_and_has_no_receipt() -> None:
    row = Scoreboard().rows[1]
    tally = Tally(row)
    told: list[Receipt] = []
    receipts = Receipts(Writer(told), "eu", row)
    message = Message("m1", "", b"x", target=Target.ALL, priority=HIGH)
    for copied in (True, False):
        record = Record(message, HIGH, 0, 0, copied=copied)
        for counts in ({int(Outcome.OFFLINE): 1}, {int(Outcome.DELIVERED): 2}):
            for given in (None, receipts):
                work, under_way = begun(record, tally, given)
                work.settle_all(counts)
                assert under_way.collect() == [record]
    assert row.get("messages_elsewhere_high") == 2
    assert row.get("messages_offline_high") == 2
    assert row.get("messages_delivered_high") == taken(row, HIGH) - 2 == 8
    assert [receipt.counts for receipt in told] == [{"delivered": 2}, {"offline": 1}, {"delivered": 2}]


class Writer:
    """Of receipts: into a list."""

    def __init__(self, told: list[Receipt]) -> None:
        self._told = told

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def write(self, receipt: Receipt, done: Callable[[bool], None]) -> None:
        self._told.append(receipt)
        done(True)


def test_a_delivery_falls_into_one_bucket() -> None:
    row = Scoreboard().rows[1]
    tally = Tally(row)
    now_ms = time.time_ns() // 1_000_000
    tally.outcomes.settle(HIGH, False, Outcome.DELIVERED, now_ms - 400)
    tally.outcomes.settle(HIGH, False, Outcome.DELIVERED, now_ms - 3_600_000)
    tally.outcomes.settle(HIGH, False, Outcome.DELIVERED, now_ms + 5_000)  # another box's clock is ahead
    tally.outcomes.settle(HIGH, False, Outcome.OFFLINE, now_ms)
    buckets = {b: row.get(f"delivery_high_le_{b}") for b in (*DELIVERY_BUCKETS_S, "inf")}
    assert {b: n for b, n in buckets.items() if n} == {0.5: 1, "inf": 1, 0.001: 1}
    assert row.get("delivery_high_sum_us") >= 3_600_400_000
