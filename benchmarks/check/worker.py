"""A whole worker under callgrind: `python -m benchmarks.check.worker SETTING…`, by benchmarks.check.

It joins the cluster of an ordinary zpush, which brings registry and queue. The first line that it says tells where it
listens; then control.py.
"""

from __future__ import annotations

import sys

import uvloop

from benchmarks.check.control import under_control
from zpush import config
from zpush.master.listeners import open_listeners
from zpush.scoreboard import WORKER, Scoreboard
from zpush.server.listeners import Listeners
from zpush.server.worker import Worker


def where(sockets: Listeners) -> dict[str, object]:
    return {name: "{}:{}".format(*getattr(sockets, name).getsockname()) for name in ("client", "api")}


async def main() -> None:
    settings = config.load(None, {}, sys.argv[1:])
    [sockets] = open_listeners(settings, 1)
    board = Scoreboard()
    worker = Worker(settings, board, board.rows[board.claim(WORKER, 0)], 0, sockets, lambda: settings)
    await worker.run(under_control(where(sockets)))


if __name__ == "__main__":
    uvloop.run(main())
