"""Acknowledgements: senders that wait for the client's own word.

Rules. A waiting push is PENDING until the client acks its id (ACKED), or its wait is over or the client gone
(DELIVERED: the kernel took it, nobody said more). The latency is measured from the kernel's taking to the
ack. What nobody waits for is only counted, apart: no sent ids are kept, so such an ack may name anything. Bounded:
past MAX_WAITING a push is DELIVERED at once.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple

from zpush.protocol.message import Outcome
from zpush.scoreboard import DELIVERY_BUCKETS_S, Row

MAX_WAITING = 100_000
_BUCKETS = (*DELIVERY_BUCKETS_S, "inf")


class _Wait(NamedTuple):
    since_s: float
    deadline_s: float
    tell: Callable[[Outcome], None]


class Acks:
    def __init__(self, row: Row) -> None:
        self._row = row
        self._waiting: dict[str, dict[str, _Wait]] = {}  # client id → message id → who waits
        self._count = 0

    def expect(self, client_id: str, message_id: str, wait_s: float, tell: Callable[[Outcome], None]) -> bool:
        """tell(outcome) comes once, later. False: not waited for."""
        if self._count >= MAX_WAITING:
            return False
        of_client = self._waiting.setdefault(client_id, {})
        if message_id in of_client:
            return False
        now_s = time.monotonic()
        of_client[message_id] = _Wait(now_s, now_s + wait_s, tell)
        self._count += 1
        return True

    def acked(self, client_id: str, message_id: str) -> None:
        wait = self._take(client_id, message_id)
        if wait is None:
            self._row.add("acks_unawaited")
            return
        elapsed_s = time.monotonic() - wait.since_s
        self._row.add("acks_awaited")
        self._row.add(f"ack_le_{_BUCKETS[bisect_left(DELIVERY_BUCKETS_S, elapsed_s)]}")
        self._row.add("ack_sum_us", int(elapsed_s * 1e6))
        wait.tell(Outcome.ACKED)

    def gone(self, client_id: str) -> None:
        """The client has no connection here any more: nobody is left who could ack."""
        waits = self._waiting.pop(client_id, None)
        if waits is not None:
            self._count -= len(waits)
            for wait in waits.values():
                wait.tell(Outcome.DELIVERED)

    def expire(self) -> None:
        """Called about twice a second."""
        now_s = time.monotonic()
        over = [(c, m) for c, waits in self._waiting.items() for m, wait in waits.items() if wait.deadline_s <= now_s]
        for client_id, message_id in over:
            wait = self._take(client_id, message_id)
            if wait is not None:
                wait.tell(Outcome.DELIVERED)

    def _take(self, client_id: str, message_id: str) -> _Wait | None:
        of_client = self._waiting.get(client_id)
        wait = of_client.pop(message_id, None) if of_client is not None else None
        if wait is not None:
            self._count -= 1
            if not of_client:
                del self._waiting[client_id]
        return wait
