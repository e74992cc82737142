"""RFC 6455 frames: what Python sees of the reader and the encoder (tests, benchmarks)."""

from typing import TypeAlias

MESSAGE: int  # kinds of events
PING: int
PONG: int
CLOSE: int
ERROR: int

Event: TypeAlias = tuple[int, int, int, bytes, str]
"""(kind, opcode, close code or 0, payload or close reason, what was wrong or "")."""

class FrameReader:
    """What one client sends, in any pieces."""

    def __init__(self, message_bytes: int, fragments: int) -> None:
        """message_bytes: most of one message; fragments: most frames of one message, at least 1."""

    @property
    def idle(self) -> bool:
        """At a message boundary, holding no memory."""

    @property
    def room_bytes(self) -> int:
        """Memory held for a partial message."""

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete, in order; an ERROR is the last.

        ValueError: fed after an ERROR. MemoryError: no room for the message; the reader is done with.
        """

def encode_frame(opcode: int, payload: bytes) -> bytes:
    """A frame of the server: not masked, not fragmented."""

def encode_header(opcode: int, payload_bytes: int) -> bytes:
    """The frame's header alone."""

def mask(data: bytes, key: bytes, phase: int = 0) -> bytes:
    """Masked, or unmasked; phase: bytes of the frame before data. ValueError: a key not of four bytes."""

def utf8(state: int, data: bytes) -> int:
    """State behind data: 0 a whole text, 1 none, else amid a character. Begin with 0."""

def is_close_code(code: int) -> bool:
    """May stand in a close frame."""

def allocations() -> tuple[int, int]:
    """(allocated, freed): blocks of message memory, since the module was loaded."""
