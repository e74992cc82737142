"""One request to one owner: which jobs are in it, and what becomes of them.

Rules. A batch takes a line's jobs from its front, so that the rest of the line follows only after the batch's
first answer: that alone keeps a client's order when its route turns out stale. PENDING jobs leave the
line but stay with it: until they are settled the line is sent to nobody else. Where the owner is lost they
stand in the line again, in front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from zpush.delivery.base import Entry, Job, Settled
from zpush.delivery.parking import Line
from zpush.errors import PeerUnreachable
from zpush.protocol.message import Outcome

MAX_ENTRIES = 500
MAX_BYTES = 1024 * 1024  # of payloads, unless one alone is larger: what a slow link takes in a moment
OUTCOMES = {int(outcome): outcome for outcome in Outcome}
PENDING, NOT_HERE = int(Outcome.PENDING), int(Outcome.NOT_HERE)  # looking an enum's member up costs 50 ns more


class Steps(Protocol):
    """What the router does with lines that come back from a batch; each line is still busy then."""

    def moved(self, lines: list[Line]) -> None:
        """Their owner took them."""

    def not_here(self, lines: list[Line]) -> None:
        """Their owner does not hold them."""

    def unreachable(self, node_id: str, lines: list[Line], refused: bool) -> None: ...

    def drained(self, line: Line) -> None:
        """Nothing of it is pending any more. It may be busy or not."""


class Batch:
    """A Delivery. Take lines until it is full, send its entries, then answered or failed."""

    def __init__(self, steps: Steps, node_id: str) -> None:
        self._steps = steps
        self.node_id = node_id
        self.entries: list[Entry] = []
        self._bytes = 0
        self._lines: list[Line] = []  # in flight
        self._pending: dict[int, tuple[Line, Job]] = {}

    def take(self, line: Line) -> bool:
        """Takes as much of the line's front as fits. False where nothing fits."""
        entries = self.entries
        room = MAX_ENTRIES - len(entries)
        taken = 0
        for job in line.jobs:
            self._bytes += len(job.message.payload)
            if taken == room or (self._bytes > MAX_BYTES and entries):
                break
            entries.append(job.entry())
            taken += 1
        if not taken:
            return False
        if taken == len(line.jobs):
            line.flight, line.jobs = line.jobs, []
        else:
            line.flight = line.jobs[:taken]
            del line.jobs[:taken]
        line.owner = self.node_id
        self._lines.append(line)
        return True

    def wait(self, index: int, line: Line, job: Job) -> None:
        """The message waits in its owner's write buffer."""
        line.owner = self.node_id
        line.pending[job] = None
        self._pending[index] = line, job

    # ---- Delivery

    def answered(self, outcomes: bytes) -> None:
        lines, self._lines = self._lines, []
        moved: list[Line] = []
        missed: list[Line] = []
        index = 0
        for line in lines:
            flight, line.flight = line.flight, ()
            not_here: list[Job] = []
            for job in flight:
                outcome = outcomes[index]
                if outcome == NOT_HERE:
                    not_here.append(job)
                elif outcome == PENDING:
                    self.wait(index, line, job)
                else:
                    job.settle(OUTCOMES[outcome], self.node_id)
                index += 1
            if not_here:
                line.take_back(not_here)
                missed.append(line)
            else:
                moved.append(line)
        if moved:
            self._steps.moved(moved)
        if missed:
            self._steps.not_here(missed)

    def settled(self, settled: Settled) -> None:
        for index, outcome in settled:
            line, job = self._pending.pop(index)
            del line.pending[job]
            job.settle(OUTCOMES[outcome], self.node_id)
            if not line.pending:
                self._steps.drained(line)

    def failed(self, error: PeerUnreachable) -> None:
        lines, self._lines = self._lines, []
        for line in lines:
            flight, line.flight = line.flight, ()
            line.take_back(flight)
        pending, self._pending = self._pending, {}
        for line, job in pending.values():
            if job in line.pending:  # else an earlier batch of this connection took them all back
                line.take_back(list(line.pending))
                line.pending.clear()
                if not line.busy:
                    line.busy = True
                    lines.append(line)
        self._steps.unreachable(self.node_id, lines, error.refused)


def batches(lines: Iterable[Line], new_batch: Callable[[], Batch]) -> Iterator[Batch]:
    """Full batches of these lines' jobs, in order. A line too long for one goes on after its answer."""
    batch = new_batch()
    for line in lines:
        if not batch.take(line):
            yield batch
            batch = new_batch()
            batch.take(line)
    if batch.entries:
        yield batch
