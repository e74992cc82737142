"""Which priority is served next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpush.delivery.schedule import Schedule
from zpush.protocol.message import Priority

HIGH, NORMAL, LOW = Priority
ALL = list(Priority)


class Waiting:
    """So many of each wait; take() gives them as (priority, number)."""

    def __init__(self, **counts: int) -> None:
        self.left = {p: counts.get(p.label, 0) for p in ALL}
        self.taken = dict.fromkeys(ALL, 0)

    def take(self, priority: Priority, limit: int) -> list[tuple[Priority, int]]:
        assert limit > 0
        amount = min(limit, self.left[priority])
        self.left[priority] -= amount
        first = self.taken[priority]
        self.taken[priority] += amount
        return [(priority, first + i) for i in range(amount)]


def test_high_comes_first_within_a_draw() -> None:
    drawn = Schedule(ALL, 0.1).draw(100, Waiting(high=50, normal=50, low=50).take)
    assert [p for p, _ in drawn] == sorted(p for p, _ in drawn)
    assert drawn[0][0] is HIGH and len(drawn) == 100


def test_while_all_wait_each_lower_one_moves_at_its_floor() -> None:
    waiting = Waiting(high=10**6, normal=10**6, low=10**6)
    schedule = Schedule(ALL, 0.1)
    for _ in range(100):
        assert len(schedule.draw(100, waiting.take)) == 100
    assert waiting.taken == {HIGH: 8100, NORMAL: 900, LOW: 1000}


@pytest.mark.parametrize("limit", [1, 3, 7, 500])
def test_the_floor_holds_for_small_draws_too(limit: int) -> None:
    waiting = Waiting(high=10**6, low=10**6)
    schedule = Schedule([LOW, HIGH], 0.1)
    for _ in range(5000 // limit):
        schedule.draw(limit, waiting.take)
    total = sum(waiting.taken.values())
    assert waiting.taken[LOW] == pytest.approx(total / 10, abs=max(1, limit / 10))


def test_without_a_floor_it_is_strict() -> None:
    waiting = Waiting(high=150, normal=100, low=100)
    schedule = Schedule(ALL, 0.0)
    drawn = [schedule.draw(100, waiting.take) for _ in range(4)]
    assert [len(d) for d in drawn] == [100, 100, 100, 50]
    order = [p for d in drawn for p, _ in d]
    assert order == sorted(order)


def test_what_the_high_ones_do_not_use_goes_to_the_next() -> None:
    waiting = Waiting(high=10, normal=30, low=1000)
    Schedule(ALL, 0.1).draw(100, waiting.take)
    assert waiting.taken == {HIGH: 10, NORMAL: 30, LOW: 60}


def test_nothing_waiting_saves_up_no_claim() -> None:
    schedule = Schedule(ALL, 0.1)
    busy = Waiting(high=10**6)
    for _ in range(50):
        schedule.draw(100, busy.take)
    late = Waiting(high=10**6, low=10**6)
    schedule.draw(100, late.take)
    assert late.taken[LOW] == 10


def test_one_priority_alone_gets_everything() -> None:
    waiting = Waiting(low=100)
    assert len(Schedule([LOW], 0.1).draw(60, waiting.take)) == 60


@given(
    st.lists(st.integers(0, 200), min_size=3, max_size=3),
    st.integers(1, 100),
    st.floats(0, 0.5),
    st.lists(st.sampled_from(ALL), min_size=1, max_size=3, unique=True),
)
def test_every_draw_is_as_large_as_it_can_be_and_in_order(
    counts: list[int], limit: int, floor: float, priorities: list[Priority]
) -> None:
    waiting = Waiting(**{p.label: n for p, n in zip(ALL, counts, strict=True) if p in priorities})
    schedule = Schedule(priorities, floor)
    seen: list[tuple[Priority, int]] = []
    while sum(waiting.left.values()):
        expected = min(limit, sum(waiting.left.values()))
        drawn = schedule.draw(limit, waiting.take)
        assert len(drawn) == expected
        seen += drawn
    assert schedule.draw(limit, waiting.take) == []
    for priority in priorities:
        numbers = [n for p, n in seen if p is priority]
        assert numbers == list(range(len(numbers)))
