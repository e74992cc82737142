"""What the server's replies mean for the registry.

Rules. What is not an answer (no connection, an error reply) becomes RegistryUnavailable. Data under our keys that is
not ours counts as absent: each find is counted, the first one is named in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any

from zpush.errors import RegistryUnavailable, Unavailable
from zpush.store import ReplyError

_FAILURES = (Unavailable, ReplyError)
_log = logging.getLogger("zpush.registry")


class Foreign:
    """Counts values that are not ours."""

    def __init__(self) -> None:
        self.count = 0

    def note(self, key: str) -> None:
        if self.count == 0:
            _log.warning("%r holds data that is not zpush's; it counts as absent. Later finds are only counted", key)
        self.count += 1


async def answer(reply: Awaitable[Any]) -> Any:
    try:
        return await reply
    except _FAILURES as e:
        raise RegistryUnavailable(str(e)) from None


def checked(reply: Any) -> Any:
    """A reply that came as a value."""
    if isinstance(reply, _FAILURES):
        raise RegistryUnavailable(str(reply))
    return reply


def is_foreign(reply: Any) -> bool:
    """The key holds another type."""
    return isinstance(reply, ReplyError) and reply.code == "WRONGTYPE"
