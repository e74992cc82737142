"""Reads one connection in a task of its own: messages are handed on in order, the rest can be asked for.

Rules. `take` is awaited for each message and secure token before the next is read, so that whoever takes slowly is seen
by the server as a slow consumer. What `take` raises ends the reading, and is the task's exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from zpush.client.events import Connection, Ended, GoAway, Received, Renewed, SecureToken


class Pump:
    """task: the reading; its result is the end."""

    def __init__(self, connection: Connection, take: Callable[[Received | SecureToken], Awaitable[None]]) -> None:
        self._connection = connection
        self._take = take
        self._going: asyncio.Queue[GoAway | None] = asyncio.Queue()
        self.renewed = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> Ended:
        try:
            while True:
                match await self._connection.receive():
                    case Received() | SecureToken() as it:
                        await self._take(it)
                    case GoAway() as go_away:
                        if self._going.empty():  # asked twice is asked once
                            self._going.put_nowait(go_away)
                    case Renewed():
                        self.renewed.set()
                    case Ended() as end:
                        return end
        finally:
            self._going.put_nowait(None)

    async def asked_to_go(self) -> GoAway | None:
        """The next go-away; None at the end of the connection."""
        return await self._going.get()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})
