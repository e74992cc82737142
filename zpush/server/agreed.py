"""What was agreed with each client in its handshake, for those who ask later: a byte a connection.

Rules. A connection is no Python object, so this is an array by slot, the lower half of a handle, as long as the highest
slot ever used. The byte is written before anybody can ask for it; what a slot's last connection left says nothing.
"""

from __future__ import annotations

_SLOT = 0xFFFF_FFFF
_WANTS_TOKEN = 0x80  # protocols are small numbers


class Agreed:
    """Handles are those of living connections."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def note(self, handle: int, protocol: int, wants_token: bool) -> None:
        slot = handle & _SLOT
        if slot >= len(self._bytes):
            self._bytes.extend(bytes(slot + 1 - len(self._bytes)))
        self._bytes[slot] = protocol | (_WANTS_TOKEN if wants_token else 0)

    def protocol(self, handle: int) -> int:
        """RAW, V1 or EVENT_STREAM."""
        return self._bytes[handle & _SLOT] & ~_WANTS_TOKEN

    def wants_token(self, handle: int) -> bool:
        """A secure token, as soon as it is known who it is."""
        return bool(self._bytes[handle & _SLOT] & _WANTS_TOKEN)
