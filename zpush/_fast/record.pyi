"""What a queue's consumer hands out, for queue/ and delivery/."""

from collections.abc import Iterable
from typing import Any, final

@final
class Record:
    """A message (protocol.message) and where it stands: partition and position are the back end's own.

    copied: from another region's queue, which knows the message as well.
    """

    def __init__(
        self,
        message: Any,
        priority: Any,
        partition: int,
        position: bytes | int,
        redelivered: bool = False,
        copied: bool = False,
    ) -> None: ...
    @property
    def message(self) -> Any: ...
    @property
    def priority(self) -> Any: ...
    @property
    def partition(self) -> int: ...
    @property
    def position(self) -> bytes | int: ...
    @property
    def redelivered(self) -> bool: ...
    @property
    def copied(self) -> bool: ...

def by_priority(records: Iterable[Record]) -> list[list[Record]]:
    """By the priority's number."""
