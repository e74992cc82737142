"""The authenticator in use, and how a reload puts another in its place.

Rules. The one in use answers until the next is ready: that one may have keys to fetch, for seconds. The newest reload
wins, whichever is ready first: an older one that is ready behind it is stopped unused. What fails is logged and changes
nothing. Whatever was given is stopped in the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from zpush.auth.base import Authenticator
from zpush.log import event
from zpush.tasks import Tasks

_log = logging.getLogger("zpush.worker")


class Authentication:
    """first: not started yet. use(authenticator): called with each that takes the place of the one in use."""

    def __init__(self, first: Authenticator, use: Callable[[Authenticator], None]) -> None:
        self._first = first
        self._in_use = first
        self._newest = first
        self._use = use
        self._tasks = Tasks(_log)

    async def start(self) -> None:
        if self._in_use is self._first:  # else a reload came while this process was starting
            await self._first.start()

    def replace(self, authenticator: Authenticator) -> None:
        """Not started yet; it is used as soon as it is, unless there is a newer one by then."""
        self._newest = authenticator
        self._tasks.spawn(self._replace(authenticator))

    async def _replace(self, authenticator: Authenticator) -> None:
        unused = authenticator
        try:
            authenticator.take_over(self._in_use)  # it still is when this one takes its place: only the newest does
            await authenticator.start()
            if authenticator is self._newest:
                unused, self._in_use = self._in_use, authenticator
                self._use(authenticator)
                event(_log, "reloaded")
        finally:
            await unused.stop()

    async def stop(self) -> None:
        await self._tasks.cancel()
        await self._in_use.stop()
