"""How much each client address has: what Python sees of the table (tests)."""

TAKEN: int  # answers of take
TOO_MANY_OPEN: int
TOO_MANY_BEGUN: int

class Addresses:
    def __init__(
        self, open: int = 0, begun: int = 0, window_s: int = 10, most: int | None = None, seed: int = 0
    ) -> None:
        """open: connections at once; begun: connections a window; 0: no limit. most: entries."""

    def __len__(self) -> int:
        """Addresses (IPv6: /64 networks) that are known."""

    @property
    def bytes(self) -> int: ...
    def set_limits(self, open: int, begun: int, window_s: int) -> None: ...
    def take(self, text: str, now_s: int) -> int:
        """A connection from this address: TAKEN, to be released once, or why not. ValueError: not an address."""

    def release(self, text: str, now_s: int) -> None:
        """A connection that was taken is gone."""

    def sweep(self, now_s: int) -> None:
        """Forgets some of what is over."""

def allocations() -> tuple[int, int]:
    """(allocated, freed): arrays of cells, since the module was loaded."""
