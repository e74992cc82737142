"""Reads leases' texts, for registry/lease.py."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

_Made = TypeVar("_Made")
_Other = TypeVar("_Other")

def read(value: bytes) -> tuple[str, int, str] | None:
    """(node id, epoch, user id) of `1 <epoch> <node id> <user id>`; None for any other form, also where it is a lease:

    another version, or a user id that is not ASCII.
    """

def read_all(
    client_ids: Iterable[str],
    values: list[Any],
    make: Callable[[str, str, int, str], _Made],
    otherwise: Callable[[str, Any], _Other],
) -> list[_Made | _Other | None]:
    """make(client id, node id, epoch, user id) of each value of the usual form, None of None, else otherwise().

    otherwise gets client id and value. There are as many values as client ids.
    """
