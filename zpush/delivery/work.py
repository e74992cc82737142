"""A record under way, from the queue to its last outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from zpush.delivery.base import Job
from zpush.delivery.tally import Tally
from zpush.protocol.message import Outcome
from zpush.queue.base import Record


class Work(msgspec.Struct, eq=False):
    """left: outcomes that are still to come. done(work) is called when the last one has.

    jobs: each refers to this object, so they are emptied at the end, or only the collector would free them.
    """

    record: Record
    tally: Tally
    done: Callable[[Work], None]
    left: int = 1
    jobs: Sequence[Job] = ()

    def job(self, client_id: str) -> Job:
        """For one client; it settles here."""
        return _Share(self.record.message, client_id, work=self)

    def settle(self, outcome: Outcome, node_id: str = "", client_id: str = "") -> None:
        """One client's outcome, or (client_id "") the only one of a message that found none. node_id: as Job has it."""
        self.count(self.judge(outcome))
        self.release()

    def judge(self, outcome: Outcome) -> Outcome:
        """That the client of a copied record is not here says nothing yet: it may be in any other region."""
        return Outcome.ELSEWHERE if self.record.copied and outcome is Outcome.OFFLINE else outcome

    def settle_all(self, counts: dict[int, int]) -> None:
        """What became of an `all`: {Outcome: connections}."""
        if self.is_elsewhere(counts):
            self.count(Outcome.ELSEWHERE)
        else:
            self.count_all(counts)
        self.release()

    def is_elsewhere(self, counts: dict[int, int]) -> bool:
        """The same of an `all` that found nobody."""
        return self.record.copied and Outcome.OFFLINE in counts

    def count(self, outcome: Outcome) -> None:
        record = self.record
        self.tally.settled(record.priority, record.redelivered, outcome, record.message.queued_ms)

    def count_all(self, counts: dict[int, int]) -> None:
        self.tally.broadcast(self.record.priority, self.record.redelivered, counts)

    def release(self) -> None:
        """One less to wait for."""
        self.left -= 1
        if not self.left:
            self.jobs = ()
            self.done(self)


class _Share(Job, kw_only=True, eq=False):
    """One client's share of a record."""

    work: Work

    def settle(self, outcome: Outcome, node_id: str) -> None:
        self.work.settle(outcome, node_id, self.client_id)
