"""Counts outcomes of single messages, for delivery/tally.py."""

from collections.abc import Mapping, Sequence

class Settled:
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

    def __call__(self, priority: int, redelivered: bool, outcome: int, queued_ms: int) -> None:
        """ValueError where the outcome has no column."""
