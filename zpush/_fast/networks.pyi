"""IP addresses and networks: what Python sees of them (tests)."""

from collections.abc import Iterable

class Networks:
    def __init__(self, texts: Iterable[str]) -> None:
        """texts: "10.0.0.0/8", "2001:db8::/32", or single addresses. ValueError: not a network."""

    def hold(self, text: str) -> bool:
        """Whether the address is in one of them. ValueError: not an address."""

def normal(text: str) -> str | None:
    """The address in its one spelling (IPv4 mapped into IPv6 is IPv4); None where it is none."""

def allocations() -> tuple[int, int]:
    """(allocated, freed): lists, since the module was loaded."""
