"""Deadlines as a flat array of 16-bit countdowns: what Python sees of it (tests, benchmarks)."""

MAX_S: int  # seconds; longer deadlines are clamped

class Wheel:
    def __init__(self, capacity: int) -> None:
        """capacity: slots. ValueError for none."""

    def arm(self, slot: int, seconds: int) -> None:
        """IndexError past the capacity, here and below."""

    def disarm(self, slot: int) -> None: ...
    def left(self, slot: int) -> int:
        """Seconds left; 0 where nothing is armed."""

    def sweep(self, elapsed_s: int, high: int | None = None) -> list[int]:
        """Takes elapsed_s off every slot below high (None: all). The slots that came due, ascending, now disarmed."""

def allocations() -> tuple[int, int]:
    """(allocated, freed): blocks of memory, since the module was loaded."""
