"""Counts outcomes, for delivery/tally.py."""

from collections.abc import Mapping, Sequence

class Outcomes:
    def __init__(
        self,
        cells: memoryview,
        columns: Sequence[tuple[Mapping[int, int], tuple[int, int], Sequence[int], int]],
        bounds_ms: Sequence[int],
        delivered: int,
        apart: int,
    ) -> None:
        """columns, by priority: of each outcome; of what was taken for the first time, and redelivered; of each bucket
        and of those beyond; of the sum in microseconds. bounds_ms: the buckets' upper ends, rising.

        delivered: the outcome whose time is counted; apart: the one that is not counted as taken.
        """

    def count(self, priority: int, redelivered: bool, outcome: int, amount: int = 1) -> None:
        """ValueError where the outcome has no column."""

    def count_all(self, priority: int, redelivered: bool, counts: Mapping[int, int]) -> None:
        """An `all`, by outcome: {Outcome: connections}. ValueError as above."""

    def settle(self, priority: int, redelivered: bool, outcome: int, queued_ms: int) -> None:
        """One, with the time since queued_ms (Unix). ValueError as above."""
