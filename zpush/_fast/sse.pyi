"""Server-sent events: what Python sees of the encoder (tests, benchmarks)."""

def encode_event(data: bytes, event: bytes | None = None, id: bytes | None = None) -> bytes:
    """One event, blank line included. An id that is empty or has CR, LF or NUL in it is left out.

    ValueError: a name with CR, LF or NUL. SystemError: measured and written size differ (a bug here).
    """
