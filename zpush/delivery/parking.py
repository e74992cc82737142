"""A client's line of waiting messages, and the lot where lines wait out a transient failure.

Rules. All messages of one client and priority stand in one line, in the order in which they came. A line
is held by at most one step at a time (busy): waiting for its turn, in a look-up, in flight to an owner, or
parked. What comes meanwhile stands behind, so nothing overtakes. A parked line costs no timer of its
own: the lot has one. The lot is bounded in messages and bytes; past that the oldest message goes first.
Failing parks a client, never a partition or an owner.
"""

from __future__ import annotations

import asyncio
import heapq
from bisect import insort
from collections.abc import Callable, Iterable, Sequence

import msgspec

from zpush.delivery.base import Job
from zpush.protocol.message import Priority
from zpush.registry.base import Lease

MAX_JOBS = 100_000
MAX_BYTES = 256 * 1024 * 1024  # of payloads
WAKE_LINES = 500  # lines that try again in one turn: about 2 ms of work
_WAKE_GAP_S = 0.01  # between two such turns while more lines are due


class Line(msgspec.Struct, eq=False):
    """One client's messages of one priority. jobs wait, flight is with an owner, pending waits in its write buffer."""

    client_id: str
    priority: Priority
    jobs: list[Job] = []
    flight: Sequence[Job] = ()
    pending: dict[Job, None] = {}
    owner: str = ""  # node id of who holds flight and pending
    lease: Lease | None = None  # what the last look-up found
    seen: int = 0  # order of the last job that the present step was made for
    busy: bool = False
    rechecked: bool = False  # the owner did not hold the client, and the second look-up is due or made
    tries: int = 0  # transient failures in a row
    blind: bool = False  # the last one: nobody can say where the client is
    parked: bool = False
    due_s: float = 0.0
    parked_jobs: int = 0
    parked_bytes: int = 0

    def until_s(self, job: Job) -> float:
        """How long the job waits in this line."""
        return job.end_s if self.blind else job.deadline_s

    def stand(self, job: Job) -> None:
        """By its order: what was tried here first finds later ones in line where there were many in one turn."""
        if not self.jobs or self.jobs[-1].order < job.order:
            self.jobs.append(job)
        else:
            insort(self.jobs, job, key=_order)

    def take_back(self, jobs: Sequence[Job]) -> None:
        """Jobs whose outcome will not come stand in the line again, where they stood."""
        self.jobs += jobs
        self.jobs.sort(key=_order)


def _order(job: Job) -> int:
    return job.order


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
