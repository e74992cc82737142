"""The lot: one timer, bounds, oldest first."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from tests.delivery.world import Outcomes
from tests.support import eventually
from zpush._fast.job import Job
from zpush._fast.lines import Line
from zpush.delivery import parking
from zpush.delivery.parking import Lot
from zpush.protocol.message import Outcome, Priority

_numbers = itertools.count(1)


class Yard:
    """A lot, what came due, what was evicted."""

    def __init__(self, **bounds: int) -> None:
        self.due: list[list[str]] = []
        self.evicted: list[str] = []
        self.lot = Lot(self._on_due, lambda line, job: self.evicted.append(job.message.id), **bounds)
        self.loop = asyncio.get_running_loop()
        self.outcomes = Outcomes()

    @property
    def order(self) -> list[str]:
        return [client_id for lines in self.due for client_id in lines]

    def _on_due(self, lines: list[Line]) -> None:
        self.due.append([line.client_id for line in lines])

    def line(self, client_id: str, *ids: str, payload: bytes = b"", deadline_s: float = float("inf")) -> Line:
        jobs = [self.job(client_id, id, payload, deadline_s) for id in ids]
        return Line(client_id, Priority.NORMAL, jobs)

    def job(self, client_id: str, id: str, payload: bytes = b"", deadline_s: float = float("inf")) -> Job:
        job = self.outcomes.job(client_id, id, deadline_s=deadline_s, payload=payload)
        job.order = next(_numbers)
        return job


async def test_lines_come_due_in_order_and_those_of_one_time_together() -> None:
    yard = Yard()
    now_s = yard.loop.time()
    yard.lot.park(yard.line("late", "m1"), now_s + 0.05)
    yard.lot.park(yard.line("a", "m2"), now_s + 0.01)
    yard.lot.park(yard.line("b", "m3"), now_s + 0.01)
    await eventually(lambda: len(yard.order) == 3)
    assert yard.order == ["a", "b", "late"] and yard.due[0][:2] == ["a", "b"]
    assert yard.lot.jobs == yard.lot.bytes == 0


async def test_a_deadline_comes_before_the_next_try() -> None:
    yard = Yard()
    now_s = yard.loop.time()
    yard.lot.park(yard.line("a", "m1", deadline_s=now_s + 0.01), now_s + 60)
    joined = yard.line("b", "m2")
    yard.lot.park(joined, now_s + 60)
    joined.jobs.append(yard.job("b", "m3", deadline_s=now_s + 0.02))
    yard.lot.join(joined, joined.jobs[-1])
    await eventually(lambda: yard.order == ["a", "b"])


async def test_a_line_that_left_does_not_come_due() -> None:
    yard = Yard()
    now_s = yard.loop.time()
    gone = yard.line("gone", "m1", "m2")
    yard.lot.park(gone, now_s + 0.01)
    yard.lot.leave(gone)
    assert yard.lot.jobs == 0
    yard.lot.park(yard.line("other", "m3"), now_s + 0.02)
    await eventually(lambda: yard.due)
    assert yard.due == [["other"]]


async def test_a_line_parked_again_comes_due_once_and_not_at_its_earlier_time() -> None:
    yard = Yard()
    now_s = yard.loop.time()
    line = yard.line("a", "m1")
    for due_s in (0.01, 0.03, 0.03):
        yard.lot.leave(line)
        yard.lot.park(line, now_s + due_s)
    yard.lot.park(yard.line("b", "m2"), now_s + 0.02)
    yard.lot.park(yard.line("c", "m3"), now_s + 0.04)
    await eventually(lambda: len(yard.order) == 3)
    assert yard.order == ["b", "a", "c"]


async def test_many_lines_due_at_once_are_spread_over_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "WAKE_LINES", 3)
    yard = Yard()
    for n in range(8):
        yard.lot.park(yard.line(f"c{n}", f"m{n}"), yard.loop.time())
    await eventually(lambda: yard.lot.jobs == 0)
    assert [len(lines) for lines in yard.due] == [3, 3, 2]


async def test_past_the_bound_the_oldest_message_goes() -> None:
    yard = Yard(max_jobs=3)
    due_s = yard.loop.time() + 60
    yard.lot.park(yard.line("a", "a1", "a2"), due_s)
    yard.lot.park(yard.line("b", "b1"), due_s)
    assert yard.evicted == []
    yard.lot.park(yard.line("c", "c1", "c2"), due_s)
    assert yard.evicted == ["a1", "a2"]
    assert yard.lot.jobs == 3


async def test_a_line_that_tried_again_in_vain_keeps_its_age() -> None:
    yard = Yard(max_jobs=2)
    old, young = yard.line("old", "o1"), yard.line("young", "y1")
    yard.lot.park(old, yard.loop.time())
    await eventually(lambda: yard.due == [["old"]])
    yard.lot.park(young, yard.loop.time() + 60)
    yard.lot.park(old, yard.loop.time() + 60)
    yard.lot.park(yard.line("new", "n1"), yard.loop.time() + 60)
    assert yard.evicted == ["o1"]


async def test_bytes_are_bounded_too_also_for_what_joins() -> None:
    yard = Yard(max_bytes=1000)
    line = yard.line("a", "a1", "a2", payload=bytes(400))
    yard.lot.park(line, yard.loop.time() + 60)
    line.jobs.append(yard.job("a", "a3", bytes(400)))
    yard.lot.join(line, line.jobs[-1])
    assert yard.evicted == ["a1"]
    assert (yard.lot.jobs, yard.lot.bytes) == (2, 800)
    line.jobs.append(yard.job("a", "huge", bytes(2000)))
    yard.lot.join(line, line.jobs[-1])
    assert yard.evicted == ["a1", "a2", "a3", "huge"]
    assert (yard.lot.jobs, yard.lot.bytes) == (0, 0)


async def test_nothing_comes_due_after_stop() -> None:
    yard = Yard()
    yard.lot.park(yard.line("a", "m1"), yard.loop.time())
    yard.lot.stop()
    yard.lot.park(yard.line("b", "m2"), yard.loop.time())
    passed = asyncio.Event()
    yard.loop.call_later(0.02, passed.set)
    await passed.wait()
    assert yard.due == []


def test_jobs_taken_back_stand_where_they_stood() -> None:
    outcomes = Outcomes()
    jobs = [outcomes.job("c", id) for id in "abcde"]
    for order, job in enumerate(jobs):
        job.order = order
    line = Line("c", Priority.LOW, [jobs[2], jobs[4]])
    line.take_back([jobs[3]])
    line.take_back([jobs[0], jobs[1]])
    assert [job.message.id for job in line.jobs] == list("abcde")
    assert outcomes.by_id == {} and Outcome.OFFLINE not in outcomes.by_id.values()
