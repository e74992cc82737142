"""The wheel against a sorted list of deadlines."""

from __future__ import annotations

import bisect
import gc
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zpush._fast import wheel
from zpush._fast.wheel import MAX_S, Wheel


class SortedList:
    """The same contract, written the obvious way: (deadline, slot) in order, and a clock."""

    def __init__(self, capacity: int) -> None:
        self.now = 0
        self.queue: list[tuple[int, int]] = []
        self.deadlines: dict[int, int] = {}

    def arm(self, slot: int, seconds: int) -> None:
        self.disarm(slot)
        deadline = self.now + min(seconds, MAX_S)
        self.deadlines[slot] = deadline
        bisect.insort(self.queue, (deadline, slot))

    def disarm(self, slot: int) -> None:
        if slot in self.deadlines:
            self.queue.remove((self.deadlines.pop(slot), slot))

    def left(self, slot: int) -> int:
        return max(0, self.deadlines.get(slot, self.now) - self.now)

    def sweep(self, elapsed_s: int) -> list[int]:
        self.now += elapsed_s
        end = bisect.bisect_right(self.queue, (self.now, 1 << 40))
        due = sorted(slot for _, slot in self.queue[:end])
        del self.queue[:end]
        for slot in due:
            del self.deadlines[slot]
        return due


SECONDS = st.one_of(st.integers(0, 5), st.integers(MAX_S - 2, MAX_S + 3), st.integers(0, 2**32 - 1))
STEPS = st.one_of(
    st.tuples(st.just("arm"), st.integers(0, 39), SECONDS),
    st.tuples(st.just("disarm"), st.integers(0, 39), st.just(0)),
    st.tuples(st.just("sweep"), st.just(0), SECONDS),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_any_sequence_is_that_of_a_sorted_list(steps: list[tuple[str, int, int]]) -> None:
    ours, theirs = Wheel(40), SortedList(40)
    for what, slot, seconds in steps:
        if what == "arm":
            ours.arm(slot, seconds)
            theirs.arm(slot, seconds)
        elif what == "disarm":
            ours.disarm(slot)
            theirs.disarm(slot)
        else:
            assert ours.sweep(seconds) == theirs.sweep(seconds)
        assert [ours.left(s) for s in range(40)] == [theirs.left(s) for s in range(40)]


def test_a_day_of_deadlines() -> None:
    """3,000 connections re-arm as they come due; seconds go by one at a time, with a stall now and then."""
    chance = random.Random(7)
    capacity = 3000
    ours, theirs = Wheel(capacity), SortedList(capacity)
    for slot in range(capacity):
        seconds = chance.randrange(1800, 40_000)
        ours.arm(slot, seconds)
        theirs.arm(slot, seconds)
    reported = 0
    while theirs.now < 86_400:
        elapsed_s = chance.choice((0, 2, 90)) if chance.random() < 0.01 else 1
        due = ours.sweep(elapsed_s)
        assert due == theirs.sweep(elapsed_s)
        reported += len(due)
        for slot in due:
            seconds = chance.randrange(1620, 40_000)
            ours.arm(slot, seconds)
            theirs.arm(slot, seconds)
    assert reported > 2 * capacity


def test_a_deadline_longer_than_the_wheel_is_re_armed_by_its_owner() -> None:
    ours, left, swept = Wheel(1), 86_400, 0
    ours.arm(0, left)
    while True:
        swept += 10
        if ours.sweep(10) == [0]:
            left = 86_400 - swept
            if left <= 0:
                break
            ours.arm(0, left)
    assert swept == 86_400


def test_a_huge_step_reports_everything_once() -> None:
    ours = Wheel(1000)
    for slot in range(0, 1000, 3):
        ours.arm(slot, slot * 100)
    assert ours.sweep(2**32 - 1) == list(range(0, 1000, 3))
    assert ours.sweep(2**32 - 1) == []


def test_zero_seconds_is_due_at_the_next_sweep_even_of_no_time() -> None:
    ours = Wheel(2)
    ours.arm(0, 0)
    ours.arm(1, 1)
    assert ours.sweep(0) == [0]
    assert ours.sweep(1) == [1]


@pytest.mark.parametrize("high", [0, 1, 7, 255, 256, 257, 600, 10_000])
def test_only_slots_below_high_lose_time(high: int) -> None:
    ours = Wheel(600)
    for slot in range(600):
        ours.arm(slot, 5)
    assert ours.sweep(5, high) == list(range(min(high, 600)))
    assert all(ours.left(slot) == 5 for slot in range(high, 600))


def test_slots_outside_and_no_slots_are_refused() -> None:
    ours = Wheel(3)
    for call in (lambda: ours.arm(3, 1), lambda: ours.disarm(3), lambda: ours.left(3)):
        with pytest.raises(IndexError):
            call()
    with pytest.raises(ValueError):
        Wheel(0)


def test_memory_is_given_back() -> None:
    gc.collect()
    before = wheel.allocations()
    wheels = [Wheel(100) for _ in range(10)]
    assert wheel.allocations()[0] == before[0] + 20
    del wheels
    gc.collect()
    allocated, freed = wheel.allocations()
    assert allocated - before[0] == freed - before[1]
