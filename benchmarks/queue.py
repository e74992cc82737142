"""`make bench-queue`: what the queue costs on a real Kafka. Needs Java and Maven, as the tests on Kafka do.

Broker, processor, worker and clients share this machine's cores, so CPU time per message is the figure that lasts.
"""

from __future__ import annotations

import sys

from benchmarks.on_kafka.backlog import backlog
from benchmarks.on_kafka.latency import latency
from benchmarks.on_kafka.outcome import outcome
from benchmarks.on_kafka.priority import priority
from benchmarks.on_kafka.produce import produce
from benchmarks.on_kafka.road import road
from benchmarks.report import Part, report

PARTS: dict[str, Part] = {
    "produce": produce,
    "outcome": outcome,
    "road": road,
    "priority": priority,
    "latency": latency,
    "backlog": backlog,
}

if __name__ == "__main__":
    sys.exit(report(PARTS, "python -m benchmarks.queue", __doc__))
