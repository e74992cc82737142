"""The PROXY protocol: what Python sees of its parser (tests)."""

MAX_BYTES: int  # of a header

def parse(data: bytes) -> tuple[int, tuple[str, int] | None] | None:
    """data: what came of a connection so far. None: more is needed. ValueError: malformed.

    Else (bytes of the header, client): the client's address and port, or None where the peer's own stay.
    """
