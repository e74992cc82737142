"""Messages between the task that reads and the one that takes: bounded, in order, closable.

Rules. A full inbox makes the reader wait, which is what backpressure is. What is in it when it is closed can still be
taken; then comes the reason why it was closed.
"""

from __future__ import annotations

import asyncio
from collections import deque

from zpush.client.events import Received


class Inbox:
    def __init__(self, limit: int) -> None:
        self._messages: deque[Received] = deque()
        self._limit = limit
        self._changed = asyncio.Condition()
        self._closed = False
        self._reason: BaseException | None = None

    async def put(self, message: Received) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._messages) < self._limit)
            self._messages.append(message)
            self._changed.notify_all()

    async def take(self) -> Received | None:
        """The oldest message; None, or the reason as an exception, once it is closed and empty."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._messages or self._closed)
            if self._messages:
                self._changed.notify_all()
                return self._messages.popleft()
        if self._reason is not None:
            raise self._reason
        return None

    async def close(self, reason: BaseException | None) -> None:
        async with self._changed:
            self._closed, self._reason = True, reason
            self._changed.notify_all()
