"""Requests to owners, for delivery/batch.py."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from zpush._fast.job import Job
from zpush._fast.lines import Line

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
    """A delivery.base.Delivery: send its entries, then answered or failed."""

    @property
    def node_id(self) -> str: ...
    @property
    def entries(self) -> list[Any]: ...
    def wait(self, index: int, line: Line, job: Job) -> None:
        """The message waits in its owner's write buffer."""

    def answered(self, outcomes: bytes) -> None:
        """ValueError where these are not as many as entries, or one is no Outcome."""

    def settled(self, settled: Sequence[tuple[int, int]]) -> None: ...
    def failed(self, error: Any) -> None:
        """error: a PeerUnreachable."""

class Batches:
    """How batches are made."""

    def __init__(
        self, entry: type, outcomes: Iterable[int], pending: int, not_here: int, max_entries: int, max_bytes: int
    ) -> None:
        """entry: delivery.base.Entry. outcomes: all members of Outcome.

        max_bytes: of payloads in a batch, unless one alone is larger.
        """

    def fill(self, lines: Iterable[Line], steps: Steps, node_id: str) -> list[Batch]:
        """Full batches of these lines' jobs, in order. A line too long for one goes on after its answer."""

    def conclude(self, jobs: Sequence[Job], outcomes: bytes, node_id: str) -> None:
        """Settles those that are neither pending nor elsewhere. ValueError as in Batch.answered."""

    def of(self, jobs: Iterable[Job], steps: Steps, node_id: str) -> Batch:
        """One with the entries of these jobs, who stand in no line; those that have to wait are told by wait()."""
