"""Background tasks of one owner.

Rules. The loop holds tasks weakly, so the owner holds them here. A task's error is logged with its traceback,
never swallowed: what may fail in the course of things is caught inside the task. A task costs 10 µs: what comes
by the thousand a second shares one with all of its turn of the loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Tasks:
    def __init__(self, logger: logging.Logger) -> None:
        self._log = logger
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def __len__(self) -> int:
        return len(self._tasks)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("a background task failed", exc_info=error)

    async def wait(self, timeout_s: float) -> None:
        """For what is under way, no longer than this."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    async def cancel(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Turn(Generic[T]):
    """Collects what comes in one turn of the loop; `work` gets all of it in the next, in order."""

    def __init__(self, tasks: Tasks, work: Callable[[list[T]], Coroutine[Any, Any, None]]) -> None:
        self._tasks = tasks
        self._work = work
        self._items: list[T] = []

    def add(self, item: T) -> None:
        if not self._items:
            self._tasks.spawn(self._run())
        self._items.append(item)

    async def _run(self) -> None:
        items, self._items = self._items, []
        await self._work(items)
