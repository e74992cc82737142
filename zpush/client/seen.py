"""Ids of the last messages, by which doubles are found. Delivery is at least once; this makes it once, mostly.

Rules. Bounded: the oldest id is forgotten first. A message without an id is never a double. A double is acknowledged
only where the first one was: the server would not have repeated it if that ack had arrived.
"""

from __future__ import annotations


class Seen:
    def __init__(self, limit: int) -> None:
        self._ids: dict[str, bool] = {}  # oldest first; whether it was acknowledged
        self._limit = limit

    @property
    def last(self) -> str:
        """The newest id; "" at first."""
        return next(reversed(self._ids), "")

    def is_new(self, id: str) -> bool:
        """Whether it was not here before; from now on it was."""
        if not id:
            return True
        if id in self._ids:
            return False
        self._ids[id] = False
        if len(self._ids) > self._limit:
            del self._ids[next(iter(self._ids))]
        return True

    def acked(self, id: str) -> None:
        if id in self._ids:
            self._ids[id] = True

    def was_acked(self, id: str) -> bool:
        return self._ids.get(id, False)
