"""A process of zpush's that is counted, and told when: `start` and `dump NAME` on stdin, each answered with a line."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys

from benchmarks.check.callgrind import Counter


def under_control(facts: dict[str, object]) -> int:
    """A descriptor for the process to write to when it serves; then it says the facts."""
    loop, counter = asyncio.get_running_loop(), Counter()
    ready, told = os.pipe()

    def on_ready() -> None:
        loop.remove_reader(ready)
        gc.disable()  # when it would run depends on everything that ran before
        _say(facts)

    loop.add_reader(ready, on_ready)
    loop.add_reader(sys.stdin.fileno(), _obey, counter)
    return told


def _obey(counter: Counter) -> None:
    verb, _, name = sys.stdin.readline().strip().partition(" ")
    if verb == "start":
        counter.start()
        counter.toggle()
    elif verb == "dump":
        counter.toggle()
        counter.dump(name)
    else:
        raise SystemExit(0)
    _say({})


def _say(what: dict[str, object]) -> None:
    print(json.dumps(what), flush=True)
