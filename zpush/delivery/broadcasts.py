"""Broadcasts of one worker: each id reaches the worker's clients once, however often it is sent.

Rules. A caller that lost its connection, or a processor that took over a dead one's batch, sends the same
`all` again. While the first is under way the second gets its counts, later it gets none: those connections
are counted already. The memory is bounded; the oldest ids are forgotten first.
"""

from __future__ import annotations

import asyncio

from zpush.delivery.base import Local

REMEMBERED = 10_000  # ids; a retry comes within processor.retry (15 s), so this is good for 600 broadcasts a second


class Broadcasts:
    def __init__(self, local: Local, remembered: int = REMEMBERED) -> None:
        self._local = local
        self._remembered = remembered
        self._recent: dict[str, asyncio.Future[dict[int, int]] | None] = {}  # None: through

    def send(self, id: str, payload: bytes, kind: int) -> asyncio.Future[dict[int, int]]:
        """{Outcome: connections}; cancelling it does not stop the broadcast."""
        waiter: asyncio.Future[dict[int, int]] = asyncio.get_running_loop().create_future()
        if id in self._recent:
            under_way = self._recent[id]
        else:
            under_way = self._start(id, payload, kind)
        if under_way is None:
            waiter.set_result({})
        else:
            under_way.add_done_callback(lambda done: _pass_on(done, waiter))
        return waiter

    def _start(self, id: str, payload: bytes, kind: int) -> asyncio.Future[dict[int, int]]:
        while len(self._recent) >= self._remembered:
            del self._recent[next(iter(self._recent))]
        future = self._recent[id] = self._local.broadcast(id, payload, kind)
        future.add_done_callback(lambda done: self._through(id, done))
        return future

    def _through(self, id: str, done: asyncio.Future[dict[int, int]]) -> None:
        if self._recent.get(id) is not done:
            return  # forgotten meanwhile
        if done.cancelled() or done.exception() is not None:
            del self._recent[id]  # it may be tried again
        else:
            self._recent[id] = None


def _pass_on(done: asyncio.Future[dict[int, int]], waiter: asyncio.Future[dict[int, int]]) -> None:
    if waiter.done():
        return
    if done.cancelled():
        waiter.cancel()
    elif (error := done.exception()) is not None:
        waiter.set_exception(error)
    else:
        waiter.set_result(done.result())
