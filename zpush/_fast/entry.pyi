"""Reads stream entries and Kafka records, for queue/."""

from collections.abc import Sequence
from typing import Any

def read(fields: Sequence[bytes]) -> tuple[str, str, bytes, int, int] | None:
    """(message id, client id, payload, Kind, expires in Unix ms or 0) of `id … key … payload … type … [expires …]`.

    None for any other form, also where it is a message: other fields or another order, an id that is not plain ASCII.
    """

def read_headers(headers: list[Any], key: object, payload: bytes) -> tuple[str, str, bytes, int, int] | None:
    """The same of a record with the headers id, type and perhaps expires, in order.

    None for any other form, as above.
    """

def position(text: bytes) -> tuple[int, int]:
    """(ms, sequence) of a stream's id, `ms` or `ms-sequence`. ValueError where it is none."""
