"""Outcomes, counted into this process's scoreboard row.

Rules. A message and client is counted once, when its outcome is known: in one step as an outcome and as
taken (first reading) or redelivered. So outcomes equal taken plus redelivered at every moment and
across killed processes. `elsewhere` stands outside these sums: the record is a copy, and is taken where it comes from.
A bucket of the delivery histogram counts what falls into it alone (not what is
below it), and only what was delivered: the time from the queue to the socket. Messages to all have none: a pass
over all connections takes its time by design, and one number per connection would drown all others.
"""

from __future__ import annotations

import time
from bisect import bisect_left

from zpush.protocol.message import Outcome, Priority
from zpush.scoreboard import COUNTED_OUTCOMES, DELIVERY_BUCKETS_S, INDEX, Row

_BUCKETS_MS = tuple(b * 1000 for b in DELIVERY_BUCKETS_S)
_LABELS = (*DELIVERY_BUCKETS_S, "inf")
_DELIVERED, _ELSEWHERE = Outcome.DELIVERED, Outcome.ELSEWHERE  # looking an enum's member up costs 50 ns


class Tally:
    """Columns are looked up once, so that a count is an addition."""

    def __init__(self, row: Row) -> None:
        self._cells = row.cells
        self._outcome = [
            {o: INDEX[f"messages_{o.label}_{p.label}"] for o in Outcome if o.label in COUNTED_OUTCOMES}
            for p in Priority
        ]
        self._taken = [(INDEX[f"taken_{p.label}"], INDEX[f"redelivered_{p.label}"]) for p in Priority]
        self._bucket = [[INDEX[f"delivery_{p.label}_le_{b}"] for b in _LABELS] for p in Priority]
        self._sum_us = [INDEX[f"delivery_{p.label}_sum_us"] for p in Priority]
        self._dead = [INDEX[f"dead_{p.label}"] for p in Priority]

    def settled(self, priority: Priority, redelivered: bool, outcome: Outcome, queued_ms: int) -> None:
        cells = self._cells
        cells[self._outcome[priority][outcome]] += 1
        if outcome is _ELSEWHERE:
            return
        cells[self._taken[priority][redelivered]] += 1
        if outcome is _DELIVERED:
            waited_ms = time.time_ns() // 1_000_000 - queued_ms
            if waited_ms > 0:
                cells[self._sum_us[priority]] += waited_ms * 1000
            cells[self._bucket[priority][bisect_left(_BUCKETS_MS, waited_ms)]] += 1

    def broadcast(self, priority: Priority, redelivered: bool, counts: dict[int, int]) -> None:
        """An `all`, by outcome: {Outcome: connections}."""
        for outcome, number in counts.items():
            self._count(priority, redelivered, Outcome(outcome), number)

    def dead(self, priority: Priority, redelivered: bool) -> None:
        """A record that could not be read: rejected, and kept among the dead letters."""
        self._count(priority, redelivered, Outcome.REJECTED, 1)
        self._cells[self._dead[priority]] += 1

    def _count(self, priority: Priority, redelivered: bool, outcome: Outcome, number: int) -> None:
        cells = self._cells
        cells[self._outcome[priority][outcome]] += number
        cells[self._taken[priority][redelivered]] += number
