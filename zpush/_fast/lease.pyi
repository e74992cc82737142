"""Leases, and how their texts are read, for registry/."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

_Other = TypeVar("_Other")

class Lease:
    """client_id is at node node_id since epoch (Unix ms of its handshake, or one more than the epoch it replaced)."""

    def __init__(self, client_id: str, node_id: str, epoch: int, user_id: str = "") -> None: ...
    @property
    def client_id(self) -> str: ...
    @property
    def node_id(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def user_id(self) -> str: ...
    def at_epoch(self, epoch: int) -> Lease:
        """The same client at the same node."""

    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

def keys_of(prefix: str, client_ids: Iterable[str]) -> list[str]:
    """The prefix and each client id."""

def nodes_of(leases: Iterable[object]) -> tuple[set[str], bool]:
    """The node ids of those that are leases, and whether all are."""

def read(client_id: str, value: bytes) -> Lease | None:
    """Of `1 <epoch> <node id> <user id>`; None for any other form, also where it is a lease:

    another version, or a user id that is not ASCII.
    """

def read_all(
    client_ids: Sequence[str], values: list[Any], otherwise: Callable[[str, Any], _Other]
) -> list[Lease | _Other | None]:
    """The lease of each value of the usual form, None of None, else otherwise().

    otherwise gets client id and value. ValueError where there are not as many values as client ids.
    """
