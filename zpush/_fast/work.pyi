"""Records under way, for delivery/processor.py and those who settle them.

An Outcome is protocol.message's.
"""

from collections.abc import Callable, Sequence
from typing import Any, final

from zpush._fast.job import Job
from zpush._fast.record import Record
from zpush._fast.tally import Outcomes

@final
class Work(Job):
    """A record: the job itself where it is for one client, and client_id is "" where clients have shares.

    left: outcomes that are still to come, or whose receipt is; at 0 it has ended. shares: each refers to
    this object, so they are emptied at the end, or only the collector would free them.
    """

    record: Record
    left: int
    shares: Sequence[Job]

    def share(self, client_id: str) -> Job:
        """For one client of several; it settles here."""

    def settle(self, outcome: Any, node_id: str) -> None:
        """The outcome of its one client, or the only one of a message that found none."""

    def settle_all(self, counts: dict[int, int]) -> None:
        """What became of an `all`: {Outcome: connections}."""

    def release(self) -> None:
        """One less to wait for."""

class UnderWay:
    def __init__(
        self,
        outcomes: Outcomes,
        receipts: Any,
        offline: object,
        elsewhere: object,
        expired: object,
        on_ended: Callable[[], None],
    ) -> None:
        """receipts: see delivery/receipts.py; None where none are wanted. Then three Outcomes.

        on_ended(): something is to be collected, for the first time since the last collect().
        """

    def __len__(self) -> int:
        """Records of all priorities."""

    def count(self, priority: int) -> int: ...
    def payload_bytes(self, priority: int) -> int: ...
    def begin(self, records: Sequence[Record], max_age_ms: int) -> tuple[list[Work], list[Work]]:
        """Those for one client each, and those for users and `all`, each in order; what came too late is EXPIRED.

        max_age_ms: of a message without a TTL.
        """

    def collect(self) -> list[Record]:
        """The records that have ended since the last time. None of a lost partition."""

    def lose(self, priority: int, partition: int) -> list[Work]:
        """Its records are another's now."""
