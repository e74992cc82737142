"""Runs scripts under callgrind: `python -m benchmarks.check.counted NAME…`, by benchmarks.check.

Each is done once before it counts: what is made on first use is there then, and the interpreter has specialised.
"""

from __future__ import annotations

import gc
import sys

from benchmarks.check.callgrind import Counter
from benchmarks.check.script import Script
from benchmarks.check.scripts import SCRIPTS

ROUNDS = 2


def main() -> None:
    counter = Counter()
    scripts = {name: SCRIPTS[name]() for name in sys.argv[1:]}
    gc.collect()
    gc.disable()  # when it would run depends on everything that ran before
    for name, script in scripts.items():
        _count(counter, name, script)


def _count(counter: Counter, name: str, script: Script) -> None:
    script.prepare()()
    counter.start()
    for _ in range(ROUNDS):
        counter.count(script.prepare())
    counter.dump(name)


if __name__ == "__main__":
    main()
