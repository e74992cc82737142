"""Receipts: what became of a message for a client, told to its sender through the queue's own server.

Rules. A receipt holds up no outcome: the client has its message and the counters have it counted by then. But the
record is finished only after its receipts are written. So a processor that dies in between has the record read again,
and a sender sees each outcome at least once; and what waits to be written is bounded as everything under way is.
Where the server refuses receipts, or is away for longer than they wait, they are lost, and counted as that: the queue
itself goes on.

One receipt a client; one for a user without clients; one with counts for `all`. None for `elsewhere`, which says only
that another region has to know. Direct pushes have their answer, and records that cannot be read their dead letter.
"""

from __future__ import annotations

import time
from functools import partial

from zpush._fast.work import Work
from zpush.protocol.message import Outcome
from zpush.queue.base import ReceiptWriter
from zpush.queue.receipt import Receipt, user_of
from zpush.scoreboard import INDEX, Row


class Receipts:
    """region: this processor's. row: where they are counted."""

    def __init__(self, writer: ReceiptWriter, region: str, row: Row) -> None:
        self._writer = writer
        self._region = region
        self._cells = row.cells

    async def start(self) -> None:
        await self._writer.start()

    async def stop(self) -> None:
        """Before the consumer's stop: it waits some seconds for receipts, whose records are then finished."""
        await self._writer.stop()

    def write(self, work: Work, outcome: Outcome, client: str, node: str) -> None:
        """Of one client, "" where the message found none. work.release() is called when it is written or lost."""
        self._write(work, outcome.label, client, node, {})

    def write_all(self, work: Work, counts: dict[int, int]) -> None:
        """Of an `all`: {Outcome: connections}. As above."""
        self._write(work, "", "", "", {Outcome(outcome).label: number for outcome, number in counts.items()})

    def _write(self, work: Work, outcome: str, client: str, node: str, counts: dict[str, int]) -> None:
        message = work.message
        receipt = Receipt(
            message.id,
            work.record.priority.label,
            self._region,
            message.queued_ms,
            time.time_ns() // 1_000_000,
            outcome,
            client,
            user_of(message),
            node,
            work.record.redelivered,
            counts,
        )
        self._writer.write(receipt, partial(self._settled, work))

    def _settled(self, work: Work, written: bool) -> None:
        self._cells[_WRITTEN if written else _LOST] += 1
        work.release()


_WRITTEN, _LOST = INDEX["receipts_written"], INDEX["receipts_lost"]
