"""A processor's memory beside a backlog that it will not see the end of."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.figures import Figure, Progress
from benchmarks.on_kafka.broker import fill, kafka
from benchmarks.on_kafka.processes import processing
from benchmarks.process import resident_bytes
from benchmarks.server import serving
from zpush.protocol.message import Priority

BACKLOG = 5_000_000
SAMPLES = 20
EVERY_S = 1.0
MIB = 1 << 20
LEAST_MIB = 30  # an interpreter with zpush and librdkafka in it, before it has read anything
TARGET_MIB = 256


def backlog(progress: Progress) -> Iterator[Figure]:
    """Memory of a processor that works on 5,000,000 messages of 200 B"""
    with kafka() as it, serving(*it.settings, "processor.instances=0") as zpush:
        progress.say("filling Kafka")
        fill(it, Priority.LOW, BACKLOG, "nobody-", 100_000)
        with processing(it, zpush) as processor:
            _until_it_works(processor)
            resident = []
            for number in range(SAMPLES):
                progress.say(f"sample {number + 1} of {SAMPLES}")
                time.sleep(EVERY_S)
                resident.append(resident_bytes(processor) / MIB)
            if not zpush.metric('zpush_queue_lag_messages{priority="low"}'):
                raise RuntimeError("the backlog was gone before the measurement ended")
    half = SAMPLES // 2
    if min(resident) < LEAST_MIB:
        raise RuntimeError(f"{min(resident):.0f} MiB: that is not the process that works")
    yield Figure("most in the first half", max(resident[:half]), "MiB", target=TARGET_MIB)
    first, second = max(resident[:half]), max(resident[half:])
    yield Figure("most in the second", second, "MiB", floor=first, ratio=second / first, target=1.1, of_ratio=True)


def _until_it_works(processor: int) -> None:
    """It has its partitions and has read ahead what it may: nothing grows for that reason any more."""
    deadline_s, last = time.monotonic() + 60, 0
    while (now := resident_bytes(processor)) > last * 1.02:
        if time.monotonic() > deadline_s:
            raise RuntimeError("the processor's memory has not settled within a minute")
        last = now
        time.sleep(3 * EVERY_S)
