"""Outcomes, counted into this process's scoreboard row.

Rules. A message and client is counted once, when its outcome is known: in one step as an outcome and as
taken (first reading) or redelivered. So outcomes equal taken plus redelivered at every moment and
across killed processes. `elsewhere` stands outside these sums: the record is a copy, and is taken where it comes from.
A bucket of the delivery histogram counts what falls into it alone (not what is
below it), and only what was delivered: the time from the queue to the socket. Messages to all have none: a pass
over all connections takes its time by design, and one number per connection would drown all others.
"""

from __future__ import annotations

from zpush._fast.tally import Outcomes
from zpush.protocol.message import Outcome, Priority
from zpush.scoreboard import COUNTED_OUTCOMES, DELIVERY_BUCKETS_S, INDEX, Row


class Tally:
    """outcomes: those of queued messages. count(priority, redelivered, outcome, amount): any others.

    broadcast(priority, redelivered, counts): an `all`, {Outcome: connections}.
    """

    def __init__(self, row: Row) -> None:
        self._cells = row.cells
        self._dead = [INDEX[f"dead_{p.label}"] for p in Priority]
        self.outcomes = Outcomes(
            row.cells,
            [
                (
                    {int(o): INDEX[f"messages_{o.label}_{p.label}"] for o in Outcome if o.label in COUNTED_OUTCOMES},
                    (INDEX[f"taken_{p.label}"], INDEX[f"redelivered_{p.label}"]),
                    [INDEX[f"delivery_{p.label}_le_{b}"] for b in (*DELIVERY_BUCKETS_S, "inf")],
                    INDEX[f"delivery_{p.label}_sum_us"],
                )
                for p in Priority
            ],
            [int(b * 1000) for b in DELIVERY_BUCKETS_S],  # of whole ms, as many are ≤ 2.5 as ≤ 2
            Outcome.DELIVERED,
            Outcome.ELSEWHERE,
        )
        self.count = self.outcomes.count
        self.broadcast = self.outcomes.count_all

    def dead(self, priority: Priority, redelivered: bool) -> None:
        """A record that could not be read: rejected, and kept among the dead letters."""
        self.count(priority, redelivered, Outcome.REJECTED)
        self._cells[self._dead[priority]] += 1
