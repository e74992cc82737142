"""Client id -> slot and back: what Python sees of the table (tests, benchmarks)."""

class Table:
    def __init__(self, capacity: int, seed0: int = 0, seed1: int = 0) -> None:
        """capacity: slots; seeds: 64 bits each."""

    def __len__(self) -> int:
        """Ids that lead to a slot."""

    @property
    def cells(self) -> int: ...
    @property
    def blob_bytes(self) -> int:
        """Of all idents together."""

    def bind(self, slot: int, client: bytes, user: bytes = b"") -> int:
        """The slot the id led to before, or -1.

        MemoryError: nothing changed. ValueError: an id past 255 bytes. IndexError: a slot past the capacity, here
        and below.
        """

    def find(self, client: bytes) -> int:
        """The slot, or -1."""

    def unbind(self, slot: int) -> bool:
        """True if the slot's id led to it until now."""

    def ids(self, slot: int) -> tuple[bytes, bytes] | None:
        """(client id, user id), None where nothing is bound."""

def siphash13(data: bytes, seed0: int, seed1: int) -> int:
    """The table's hash, 64 bits."""

def allocations() -> tuple[int, int]:
    """(allocated, freed): blocks of memory, since the module was loaded."""
