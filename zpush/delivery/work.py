"""A record under way, from the queue to its last outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from zpush.delivery.base import Job
from zpush.delivery.tally import Tally
from zpush.protocol.message import Outcome
from zpush.queue.base import Record

if TYPE_CHECKING:
    from zpush.delivery.receipts import Receipts

_OFFLINE, _ELSEWHERE = Outcome.OFFLINE, Outcome.ELSEWHERE  # looking an enum's member up costs 50 ns


class Work(Job, kw_only=True, eq=False):
    """message: the record's. client_id: whom it is for, and then it is the job itself; "" where clients have shares.

    left: outcomes that are still to come, or whose receipt is. done(work) is called when there is none any more.
    receipts: None where none are wanted. shares: each refers to this object, so they are emptied at the end, or only
    the collector would free them.
    """

    record: Record
    tally: Tally
    done: Callable[[Work], None]
    receipts: Receipts | None = None
    left: int = 1
    shares: Sequence[Job] = ()

    def share(self, client_id: str) -> Job:
        """For one client of several; it settles here."""
        return _Share(self.message, client_id, work=self)

    def settle(self, outcome: Outcome, node_id: str = "", client_id: str = "") -> None:
        """The outcome for one client, or the only one of a message that found none. client_id: of its share.

        That the client of a copied record is not here says nothing yet: it may be in any other region.
        """
        record = self.record
        if outcome is _OFFLINE and record.copied:
            outcome = _ELSEWHERE
        self.tally.settled(record.priority, record.redelivered, outcome, self.message.queued_ms)
        if self.receipts is None or outcome is _ELSEWHERE:
            self.release()
        else:
            self.receipts.write(self, outcome.label, client_id or self.client_id, node_id)

    def settle_all(self, counts: dict[int, int]) -> None:
        """What became of an `all`: {Outcome: connections}."""
        record = self.record
        if record.copied and _OFFLINE in counts:  # it found nobody
            self.settle(_OFFLINE)
            return
        self.tally.broadcast(record.priority, record.redelivered, counts)
        if self.receipts is None:
            self.release()
        else:
            self.receipts.write(self, counts={Outcome(outcome).label: number for outcome, number in counts.items()})

    def release(self) -> None:
        """One less to wait for."""
        self.left -= 1
        if not self.left:
            self.shares = ()
            self.done(self)


class _Share(Job, kw_only=True, eq=False):
    """One client's share of a record."""

    work: Work

    def settle(self, outcome: Outcome, node_id: str) -> None:
        self.work.settle(outcome, node_id, self.client_id)
