"""What the C side of routing refuses, and what it may not lose: lines, batches and records under way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.delivery.test_tally import begun
from zpush._fast.job import Job
from zpush._fast.lines import Line, Lines, by_owner
from zpush._fast.record import Record, by_priority
from zpush.delivery.batch import BATCHES, NOT_HERE
from zpush.delivery.tally import Tally
from zpush.protocol.message import Kind, Message, Outcome, Priority, Target
from zpush.registry.base import Lease
from zpush.scoreboard import Scoreboard

NORMAL = Priority.NORMAL


class Told(Job):
    """A job that writes down its outcomes."""

    def __init__(self, client_id: str, id: str = "m1", payload: bytes = b"hello", expires_ms: int = 0) -> None:
        super().__init__(Message(id, client_id, payload, priority=NORMAL, expires_ms=expires_ms), client_id)
        self.outcomes: list[Outcome] = []

    def settle(self, outcome: Outcome, node_id: str) -> None:
        self.outcomes.append(outcome)


class Steps:
    """The router's part, written down."""

    def __init__(self) -> None:
        self.taken: list[Line] = []
        self.missed: list[Line] = []
        self.lost: list[Line] = []

    def moved(self, lines: list[Line]) -> None:
        self.taken += lines

    def not_here(self, lines: list[Line]) -> None:
        self.missed += lines

    def unreachable(self, node_id: str, lines: list[Line], refused: bool) -> None:
        self.lost += lines

    def drained(self, line: Line) -> None: ...


def lines(max_payload_bytes: int = 1000) -> Lines:
    rare: Any = lambda *_: None
    return Lines(Priority, max_payload_bytes, Outcome.EXPIRED, Outcome.REJECTED, 15.0, 60.0, rare, rare, rare)


def test_what_is_too_late_or_too_large_stands_in_no_line() -> None:
    made, late, large, sound = lines(), Told("a", expires_ms=1), Told("b", payload=bytes(1001)), Told("c")
    made.take_in([late, large, sound], 0.0)
    assert (late.outcomes, large.outcomes, sound.outcomes) == ([Outcome.EXPIRED], [Outcome.REJECTED], [])
    assert [line.client_id for line in made.next(10)] == ["c"] and len(made) == 1


def test_lines_are_grouped_by_their_owner() -> None:
    one, two, nowhere, unknown = [Line(client_id, NORMAL) for client_id in "abcd"]
    high = Line("a", Priority.HIGH)
    away = RuntimeError("nobody could say")
    leases = [Lease("a", "n1", 1), Lease("b", "n2", 1), None, away, Lease("a", "n1", 1)]
    owned, missed, without = by_owner([one, two, nowhere, unknown, high], leases)
    assert owned == {("n1", NORMAL): [one], ("n2", NORMAL): [two], ("n1", Priority.HIGH): [high]}
    assert (missed, without) == ([nowhere], [unknown])
    with pytest.raises(ValueError, match="not a lease for each line"):
        by_owner([one, two], [None])


@pytest.mark.parametrize("outcomes", [b"", b"\x01\x01", b"\x3f"])
def test_an_answer_that_does_not_fit_settles_nothing(outcomes: bytes) -> None:
    job, steps = Told("a"), Steps()
    [batch] = BATCHES.fill([Line("a", NORMAL, [job])], steps, "n1")
    with pytest.raises(ValueError, match=r"outcomes for 1 entries|no outcome has the number"):
        batch.answered(outcomes)
    assert job.outcomes == [] and not steps.taken


def test_a_stale_route_keeps_the_order_of_what_was_not_there() -> None:
    jobs, steps = [Told("a", f"m{n}") for n in range(4)], Steps()
    for order, job in enumerate(jobs):
        job.order = order
    line = Line("a", NORMAL, [*jobs])
    [batch] = BATCHES.fill([line], steps, "n1")
    assert not line.jobs and [job.message.id for job in line.flight] == ["m0", "m1", "m2", "m3"]
    batch.answered(bytes([Outcome.DELIVERED, NOT_HERE, Outcome.DELIVERED, NOT_HERE]))
    assert [job.message.id for job in line.jobs] == ["m1", "m3"] and steps.missed == [line]


def test_a_lost_owner_gives_back_what_was_in_flight_and_what_was_pending() -> None:
    jobs, steps = [Told("a", f"m{n}") for n in range(2)], Steps()
    line = Line("a", NORMAL, [jobs[0]])
    line.busy = True
    [first] = BATCHES.fill([line], steps, "n1")
    first.answered(bytes([Outcome.PENDING]))
    line.busy = False
    first.failed(SimpleNamespace(refused=False))
    assert line.jobs == [jobs[0]] and steps.lost == [line] and line.busy and not line.pending


def test_no_priority_but_the_three() -> None:
    message = Message("m1", "a", b"x", Kind.TEXT, Target.CLIENT, 7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no priority 7"):
        Job(message, "a")
    with pytest.raises(ValueError, match="no priority 7"):
        Record(message, 7, 0, 0)


def test_records_by_priority_keep_their_order() -> None:
    records = [Record(Message("m", "a", b"x", priority=p), p, 0, n) for n, p in enumerate([*Priority, *Priority])]
    assert [[r.position for r in some] for some in by_priority(records)] == [[0, 3], [1, 4], [2, 5]]


def test_what_ended_after_its_partition_was_lost_is_nobodys() -> None:
    record = Record(Message("m1", "a", b"hello", priority=NORMAL), NORMAL, 3, 0)
    work, under_way = begun(record, Tally(Scoreboard().rows[1]))
    assert (len(under_way), under_way.count(NORMAL), under_way.payload_bytes(NORMAL)) == (1, 1, 5)
    assert under_way.lose(NORMAL, 4) == [] and under_way.lose(NORMAL, 3) == [work]
    work.settle(Outcome.DELIVERED, "")
    assert under_way.collect() == [] and (len(under_way), under_way.payload_bytes(NORMAL)) == (0, 0)
