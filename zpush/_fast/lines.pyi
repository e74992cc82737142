"""Clients' lines of waiting messages, for delivery/router.py and parking.py."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from zpush._fast.job import Job
from zpush._fast.lease import Lease

class Line:
    """One client's messages of one priority. jobs wait, flight is with an owner, pending waits in its write buffer."""

    client_id: str
    priority: Any
    jobs: list[Job]
    flight: Sequence[Job]
    pending: dict[Job, None] | None  # None: there was none yet
    owner: str  # node id of who holds flight and pending
    lease: Lease | None  # what the last look-up found
    seen: int  # order of the last job that the present step was made for
    busy: bool
    rechecked: bool  # the owner did not hold the client, and the second look-up is due or made
    tries: int  # transient failures in a row
    blind: bool  # the last one: nobody can say where the client is
    parked: bool
    due_s: float
    parked_jobs: int
    parked_bytes: int

    def __init__(self, client_id: str, priority: Any, jobs: list[Job] | None = None) -> None: ...
    def until_s(self, job: Job) -> float:
        """How long the job waits in this line."""

    def stand(self, job: Job) -> None:
        """By its order: what was tried here first finds later ones in line where there were many in one turn."""

    def take_back(self, jobs: Sequence[Job]) -> None:
        """Jobs whose outcome will not come stand in the line again, where they stood."""

class Lines:
    """retry_s, max_age_s: the router's."""

    retry_s: float
    max_age_s: float

    def __init__(
        self,
        priorities: Iterable[int],
        max_payload_bytes: int,
        expired: object,
        rejected: object,
        retry_s: float,
        max_age_s: float,
        on_ready: Callable[[], None],
        on_joined: Callable[[Line, Job], None],
        on_over: Callable[[Line], None],
    ) -> None:
        """max_payload_bytes: what is larger is `rejected`, an Outcome, as is `expired`.

        on_ready(): lines are ready, for the first time since the last next(). on_joined(line, job): the job, already in
        the line, found it parked. on_over(line): its troubles are.
        """

    def __len__(self) -> int: ...
    @property
    def waiting(self) -> bool:
        """Lines are ready."""

    def clear(self) -> None:
        """Forgets all lines."""

    def get(self, priority: int, client_id: str) -> Line | None: ...
    def of(self, job: Job) -> Line:
        """The job's line, made where there is none. The job does not stand in it."""

    def take_in(self, jobs: Iterable[Job], now_s: float, here: list[Job] | None = None, room: int = 0) -> None:
        """In order. What came too late or is too large is settled, all others stand in line.

        Or are added to `here` while that has fewer than `room`, where nothing of their client stands in line.
        """

    def stand_in(self, job: Job, now_s: float) -> None:
        """One that was in `here`."""

    def end_s(self, expires_ms: int, queued_ms: int, now_s: float) -> float:
        """loop.time() at which such a message is over, by its TTL or its age."""

    def next(self, room: int) -> list[Line]:
        """Those that are ready, high before low, until they have `room` jobs."""

    def sendable(self, lines: list[Line], node_id: str) -> tuple[list[Line], list[Line]]:
        """Those that may be sent to this node, and those of which something waits in another one's write buffer.

        What was forgotten meanwhile is in neither.
        """

    def moved(self, lines: list[Line]) -> None:
        """Their owner took them: they go on, or are gone."""

    def rest(self, line: Line) -> None:
        """A step is over: the line goes on if more came meanwhile, and is gone if it is empty."""

def asked(lines: list[Line]) -> tuple[list[str], bool]:
    """Whose leases are to be looked up, and whether one of the lines has failed before."""

def by_owner(
    lines: list[Line], leases: Sequence[object]
) -> tuple[dict[tuple[str, Any], list[Line]], list[Line], list[Line]]:
    """{(node id, priority): lines}, lines without a lease, and those of which nobody could say.

    Each line has its lease then. leases: of each line its own, None, or what kept it from being read. ValueError where
    these are not as many.
    """
