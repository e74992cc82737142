"""Message ids: of their time, and never the same twice."""

from __future__ import annotations

import os
import time

from zpush.protocol.message import made_ms, new_id

IDS = 1000  # more than are drawn from the system at a time


def test_ids_sort_by_time_and_say_it() -> None:
    before_ms = time.time_ns() // 1_000_000
    first = new_id()
    time.sleep(0.002)
    second = new_id()
    assert first < second and len(first) == len(second) == 24
    assert before_ms <= made_ms(first) < made_ms(second) <= time.time_ns() // 1_000_000


def test_ids_of_one_process_differ() -> None:
    assert len({new_id()[12:] for _ in range(IDS)}) == IDS


def test_a_forked_process_makes_ids_of_its_own() -> None:
    """Workers are forked from one master, which may have made ids before."""
    new_id()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, b"".join(new_id()[12:].encode() for _ in range(10)))
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        theirs = pipe.read()
    ours = {new_id()[12:] for _ in range(IDS)}
    assert len(theirs) == 120 and not ours & {theirs[i : i + 12] for i in range(0, 120, 12)}
