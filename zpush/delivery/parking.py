"""The lot where lines wait out a transient failure.

Rules. A parked line costs no timer of its own: the lot has one. The lot is bounded in messages and bytes; past that the
oldest message goes first. Failing parks a client, never a partition or an owner.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable

from zpush._fast.job import Job
from zpush._fast.lines import Line

MAX_JOBS = 100_000
MAX_BYTES = 256 * 1024 * 1024  # of payloads
WAKE_LINES = 500  # lines that try again in one turn: about 2 ms of work
_WAKE_GAP_S = 0.01  # between two such turns while more lines are due


class Lot:
    """on_due(lines): they are no longer parked; try again. evict(line, job): the lot is too full for it."""

    def __init__(
        self,
        on_due: Callable[[list[Line]], None],
        evict: Callable[[Line, Job], None],
        max_jobs: int = MAX_JOBS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_due = on_due
        self._evict = evict
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._troubled: dict[Line, None] = {}  # oldest trouble first; a line stays while it tries again
        self._heap: list[tuple[float, int, Line]] = []  # an entry whose time is not its line's due_s is void
        self._entries = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0
        self._stopped = False
        self.jobs = 0
        self.bytes = 0

    @property
    def half_full(self) -> bool:
        return self.jobs * 2 >= self._max_jobs or self.bytes * 2 >= self._max_bytes

    def park(self, line: Line, due_s: float) -> None:
        """Until due_s, or until the first deadline of its jobs."""
        self._troubled[line] = None  # keeps its place where it has one
        line.parked = True
        for job in line.jobs:
            self._count(line, job)
            due_s = min(due_s, line.until_s(job))
        self._set_due(line, due_s)
        self._make_room()

    def join(self, line: Line, job: Job) -> None:
        """The job, already in the line, found it parked."""
        self._count(line, job)
        if line.until_s(job) < line.due_s:
            self._set_due(line, line.until_s(job))
        self._make_room()

    def left(self, line: Line, jobs: Iterable[Job]) -> None:
        """Jobs were taken out of a parked line."""
        for job in jobs:
            size = len(job.message.payload)
            line.parked_jobs -= 1
            line.parked_bytes -= size
            self.jobs -= 1
            self.bytes -= size

    def leave(self, line: Line) -> None:
        """The line's trouble is over: it moves again, or is empty."""
        if line.parked:
            self._unpark(line)
        self._troubled.pop(line, None)

    def stop(self) -> None:
        """No line comes due any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _count(self, line: Line, job: Job) -> None:
        size = len(job.message.payload)
        line.parked_jobs += 1
        line.parked_bytes += size
        self.jobs += 1
        self.bytes += size

    def _unpark(self, line: Line) -> None:
        line.parked = False
        self.jobs -= line.parked_jobs
        self.bytes -= line.parked_bytes
        line.parked_jobs = line.parked_bytes = 0

    def _set_due(self, line: Line, due_s: float) -> None:
        line.due_s = due_s
        self._entries += 1
        heapq.heappush(self._heap, (due_s, self._entries, line))
        self._arm(due_s)

    def _arm(self, at_s: float) -> None:
        if self._stopped or (self._timer is not None and at_s >= self._timer_s):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = at_s
        self._timer = self._loop.call_at(at_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        now_s = self._loop.time()
        due: list[Line] = []
        while self._heap and self._heap[0][0] <= now_s and len(due) < WAKE_LINES:
            due_s, _, line = heapq.heappop(self._heap)
            if line.parked and line.due_s == due_s:
                self._unpark(line)
                due.append(line)
        if self._heap:
            self._arm(max(self._heap[0][0], now_s + _WAKE_GAP_S))
        if due:
            self._on_due(due)

    def _make_room(self) -> None:
        while self.jobs > self._max_jobs or self.bytes > self._max_bytes:
            line = next(line for line in self._troubled if line.parked and line.jobs)
            job = line.jobs.pop(0)
            self.left(line, (job,))
            self._evict(line, job)
