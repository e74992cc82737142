"""`python -m benchmarks [PART…]`: runs the parts, prints a table, keeps the figures as JSON in benchmarks/results/.

Exit code 0 whatever the figures are, for what must not get worse is held by `make bench-check`; 1 where a part had
no result.
"""

from __future__ import annotations

import sys

from benchmarks.parts.capacity import capacity
from benchmarks.parts.echo import echo
from benchmarks.parts.failover import failover
from benchmarks.parts.fanout import fanout
from benchmarks.parts.handshake import handshake
from benchmarks.parts.health import health
from benchmarks.parts.idle import idle
from benchmarks.parts.latency import latency
from benchmarks.parts.queue import queue
from benchmarks.parts.registry import registry
from benchmarks.parts.unicast import unicast
from benchmarks.report import Part, report

PARTS: dict[str, Part] = {
    "idle": idle,
    "handshake": handshake,
    "fanout": fanout,
    "echo": echo,
    "unicast": unicast,
    "queue": queue,
    "registry": registry,
    "capacity": capacity,
    "latency": latency,
    "health": health,
    "failover": failover,
}
BY_NAME = ("failover",)  # two minutes of waiting

if __name__ == "__main__":
    sys.exit(report(PARTS, "python -m benchmarks", __doc__, BY_NAME))
