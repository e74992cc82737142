"""The scoreboard: one shared memory map, a row of 64-bit counters per process.

Rules. The master makes the map before it forks; every process inherits it. A row has one writer: its
process (the engine writes its own columns in C). Anyone may read any row at any time, without a lock:
an aligned 64-bit store is seen whole. Counters only grow; gauges are zeroed when their process dies.
A dead process's counters are added to row 0, `retired`, so that sums over all rows never go back; while they are, its
`folds` is odd, and whoever wants all rows of one moment reads again. A message is counted as taken (or redelivered) in
the same step as its outcome, so the sums agree whoever is killed on the way.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

from zpush.protocol.message import Outcome, Priority

ROWS = 256  # 1 retired + workers + processors

CLOSE_CODES = (1000, 1001, 1002, 1003, 1006, 1007, 1008, 1009, 1011, 1013, 4001, 4002, 4004, 4005, 4006, 4008)
HANDSHAKE_RESULTS = (
    "ok", "malformed", "origin", "unauthorized", "not_found", "method", "version",
    "too_large", "full", "draining", "timeout", "replaced", "aborted", "http", "proxy", "address_limited",
    "forbidden", "unavailable", "failed",
)  # fmt: skip
API_STATUSES = (200, 202, 204, 400, 401, 403, 404, 405, 408, 413, 415, 431, 500, 503)
COUNTED_OUTCOMES = tuple(o.label for o in Outcome if o not in (Outcome.PENDING, Outcome.NOT_HERE))
RECEIPT_RESULTS = ("written", "lost")
PRESENCE_EVENTS = ("connected", "disconnected", "expired")
PRESENCE_RESULTS = ("written", "lost")
DELIVERY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)

GAUGES = (
    "kind",  # 0 free, 1 worker, 2 processor
    "pid",
    "slot",
    "started_ms",  # Unix
    "heartbeat_ms",  # monotonic, written by the process at least once a second
    "ready",  # 1: serving; 0: starting or leaving
    "registry_up",
    "queue_up",
    "connections_websocket",
    "connections_sse",
    "connections_unknown",  # open, not yet authenticated
    "unsent_bytes",
    "memory_bytes",  # the engine's own
    "dirty_leases",
    "in_flight",  # taken from the queue, outcome not yet known
    "crash",  # a digest of the traceback that ended it
    "folds",  # of the retired row alone: twice the dead that it has taken up
)

COUNTERS = (
    "accepted",
    "received_bytes",
    "sent_bytes",
    "frames_received",
    "messages_received",
    "pings_sent",
    "go_aways_sent",
    "sends",
    "inbound_limited",  # connections closed because they sent too much
    "fragments_limited",  # connections closed because a message came in too many frames
    "outbound_limited",  # messages not sent because the client had its share
    "acks_awaited",  # a sender waited for it
    "acks_unawaited",
    "allocated",
    "freed",
    "restarts",  # counted by the master, in the retired row
    *(f"handshakes_{r}" for r in HANDSHAKE_RESULTS),
    *(f"closes_{c}" for c in CLOSE_CODES),
    "closes_other",
    *(f"api_responses_{s}" for s in API_STATUSES),
    "api_responses_other",
    *(f"published_{p.label}" for p in Priority),
    *(f"taken_{p.label}" for p in Priority),
    *(f"redelivered_{p.label}" for p in Priority),
    *(f"dead_{p.label}" for p in Priority),
    *(f"messages_{o}_{p.label}" for o in COUNTED_OUTCOMES for p in Priority),
    *(f"delivery_{p.label}_le_{b}" for p in Priority for b in (*DELIVERY_BUCKETS_S, "inf")),
    *(f"delivery_{p.label}_sum_us" for p in Priority),
    *(f"ack_le_{b}" for b in (*DELIVERY_BUCKETS_S, "inf")),
    "ack_sum_us",
    *(f"receipts_{r}" for r in RECEIPT_RESULTS),
    *(f"presence_{e}_{r}" for e in PRESENCE_EVENTS for r in PRESENCE_RESULTS),
)

COLUMNS = (*GAUGES, *COUNTERS)
INDEX = {name: i for i, name in enumerate(COLUMNS)}
RETIRED = 0
FREE, WORKER, PROCESSOR = 0, 1, 2
_ROW_BYTES = 8 * len(COLUMNS)
_MOST_LOOKS = 1000  # some tens of milliseconds: a master that stands still in the middle must not hold its readers


class Row:
    """One process's counters. `cells` is a memoryview of unsigned 64-bit cells, one a column."""

    def __init__(self, cells: memoryview) -> None:
        self.cells = cells

    def add(self, column: str, amount: int = 1) -> None:
        self.cells[INDEX[column]] += amount

    def set(self, column: str, value: int) -> None:
        self.cells[INDEX[column]] = value

    def get(self, column: str) -> int:
        return int(self.cells[INDEX[column]])

    def clear(self) -> None:
        for i in range(len(COLUMNS)):
            self.cells[i] = 0


class Scoreboard:
    """The map. Anonymous and shared: it lives as long as a process of this run does."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, ROWS * _ROW_BYTES)
        whole = memoryview(self._map).cast("Q")
        width = len(COLUMNS)
        self.rows = [Row(whole[i * width : (i + 1) * width]) for i in range(ROWS)]

    @property
    def retired(self) -> Row:
        return self.rows[RETIRED]

    def claim(self, kind: int, slot: int) -> int:
        """The number of a free row, cleared and marked. Only the master claims."""
        for i in range(1, ROWS):
            row = self.rows[i]
            if row.get("kind") == FREE:
                row.clear()
                row.set("kind", kind)
                row.set("slot", slot)
                return i
        raise RuntimeError(f"all {ROWS - 1} scoreboard rows are taken")

    def retire(self, number: int) -> None:
        """Folds a dead process's counters into the retired row and frees its own."""
        row, retired = self.rows[number], self.retired
        retired.add("folds")
        for name in COUNTERS:
            retired.add(name, row.get(name))
        row.clear()
        retired.add("folds")

    def live(self) -> Iterator[Row]:
        """The rows of living processes."""
        return (row for row in self.rows[1:] if row.get("kind") != FREE)

    def snapshot(self) -> list[list[int]]:
        """The cells of the retired row and of each living process, in which nobody is counted twice or left out."""
        for _ in range(_MOST_LOOKS):
            folds = self.retired.get("folds")
            rows = [[*self.retired.cells], *([*row.cells] for row in self.live())]
            if folds % 2 == 0 and self.retired.get("folds") == folds:
                break
        return rows

    def total(self, column: str) -> int:
        """The sum over all rows, the dead ones' included. Exact in the master, which alone retires rows."""
        return sum(row.get(column) for row in self.rows)
