"""What a fixed script is: the same work every time, of which callgrind counts the instructions.

Rules. A script has rounds of so many operations; `prepare` sets a round up, which is not counted, and answers what is.
Nothing random, no clock that decides anything, no other process. Only what is public is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Work = Callable[[], object]
TEXT = b"x" * 100
REPEATS = 200


@dataclass(frozen=True, slots=True)
class Script:
    operations: int
    prepare: Callable[[], Work]


def repeated(operation: Work, times: int = REPEATS) -> Script:
    """One that needs no preparation."""

    def work() -> None:
        for _ in range(times):
            operation()

    return Script(times, lambda: work)
