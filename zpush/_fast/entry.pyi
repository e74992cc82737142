"""Reads stream entries, for queue/."""

from collections.abc import Sequence

def read(fields: Sequence[bytes]) -> tuple[str, str, bytes, int, int] | None:
    """(message id, client id, payload, Kind, expires in Unix ms or 0) of `id … key … payload … type … [expires …]`.

    None for any other form, also where it is a message: other fields or another order, an id that is not plain ASCII.
    """

def position(text: bytes) -> tuple[int, int]:
    """(ms, sequence) of a stream's id, `ms` or `ms-sequence`. ValueError where it is none."""
