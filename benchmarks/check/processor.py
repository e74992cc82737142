"""A whole processor under callgrind: `python -m benchmarks.check.processor SETTING…`, by benchmarks.check.

It joins the cluster of an ordinary zpush without processors, which brings registry, queue and a worker; control.py.
"""

from __future__ import annotations

import sys

import uvloop

from benchmarks.check.control import under_control
from zpush import config
from zpush.delivery.processor import Process
from zpush.scoreboard import PROCESSOR, Scoreboard


async def main() -> None:
    settings = config.load(None, {}, sys.argv[1:])
    board = Scoreboard()
    process = Process(settings, board.rows[board.claim(PROCESSOR, 0)], 0, lambda: settings)
    await process.run(under_control({}))


if __name__ == "__main__":
    uvloop.run(main())
