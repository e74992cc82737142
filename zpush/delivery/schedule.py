"""Which priority is served next: strictly the highest, with a floor for the lower ones.

Rules. Of each draw the lowest priority is owed its floor, the one above it the same share of what is left,
and so on; fractions are carried over, so the floor holds for small draws too. Whatever is not used goes
to the highest that has something. A priority that has nothing waiting is owed nothing: it saves up no claim.
Pure: what is there to take is asked of a function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from zpush.protocol.message import Priority

_T = TypeVar("_T")
Take = Callable[[Priority, int], Sequence[_T]]


class Schedule:
    """priorities: those served. floor: 0.0–0.5, the lowest one's share while all of them wait."""

    def __init__(self, priorities: Sequence[Priority], floor: float) -> None:
        self._order = sorted(priorities)
        self._floor = floor
        self._owed = dict.fromkeys(self._order, 0.0)

    def draw(self, limit: int, take: Take[_T]) -> list[_T]:
        """Up to `limit` items, the highest priority's first. take(priority, n) gives at most n."""
        drawn: dict[Priority, list[_T]] = {}
        room = limit
        for priority in reversed(self._order[1:]):
            drawn[priority] = self._take_floor(priority, room, take)
            room -= len(drawn[priority])
        items: list[_T] = []
        for priority in self._order:
            more = take(priority, room) if room > 0 else ()
            room -= len(more)
            items += drawn.get(priority, ())
            items += more
        return items

    def _take_floor(self, priority: Priority, room: int, take: Take[_T]) -> list[_T]:
        owed = self._owed[priority] + room * self._floor
        due = int(owed)
        taken = list(take(priority, due)) if due else []
        self._owed[priority] = owed - due if len(taken) == due else 0.0
        return taken
