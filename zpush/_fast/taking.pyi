"""A Kafka record's way to its processor, for queue/."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

def headers_in(record: Any) -> list[Any] | None:
    """Names and values, the latter bytes or None; None where a name is not UTF-8.

    There confluent_kafka 2.16 breaks the rules of C: it returns a list with a hole in it, and an exception is set. So
    ask once, for who looks at the list again crashes; and not by `record.headers()`, which CPython after some calls
    no longer checks for such a thing, so that the exception would come up somewhere else.
    """

class Messages:
    """How records in the usual form are read: the headers id, type and perhaps expires, in order; ASCII, bounded."""

    def __init__(
        self, make: Callable[..., Any], kinds: tuple[Any, ...], reserved: str, max_payload_bytes: int
    ) -> None:
        """make: of id, client id, payload, Kind, Priority, and when it expires and was queued in Unix ms.

        kinds: by Kind. reserved: no id begins with it.
        """

    def read(self, record: Any, headers: list[Any] | None, priority: object, now_ms: int) -> Any:
        """The message; None for any other form, also where it is a message. headers: the record's own."""

class Book:
    """What is written down of each record: see kafka_partition.Partition, which has the rest, `wants` among it."""

    key: tuple[str, int]
    ident: int
    mark: int
    outstanding: dict[int, object]
    leaving: bool
    _next: int
    _announced: int
    _finished: deque[range]

    @property
    def needs_announcement(self) -> bool:
        """Little is left that may be handed out: do not wait for the next regular commit."""

    def is_behind(self, offset: int) -> bool:
        """It comes after records with higher offsets: the log is another one."""

    def may_hand_out(self, offset: int) -> bool: ...
    def hand_out(self, offset: int, record: object) -> None: ...
    def pass_over(self, offset: int) -> None:
        """It is not wanted."""

    def finish(self, offset: int, record: object) -> bool:
        """False for a record of another tenure, and for one that was finished before."""

def finish_all(by_ident: Mapping[int, Book], records: Iterable[Any]) -> bool:
    """Records of books that are there. Whether one that is leaving has nothing outstanding any more."""

def sort_out(found: Iterable[Any]) -> tuple[list[Any], int, list[Any]]:
    """What a consumer gave: its records, the bytes of their values, and the errors among them."""

class Taker:
    def __init__(
        self,
        held: Mapping[tuple[str, int], Book],
        messages: Messages,
        priority: object,
        topic: str,
        otherwise: Callable[..., Any],
        is_full: Callable[[], bool],
    ) -> None:
        """topic: what comes from another one is a copy.

        otherwise(record, headers, book, offset, now_ms): the message of a record that is in no usual form. None where
        it has seen to the record itself; then is_full() says whether that was the last one for now.
        """

    def take(self, buffer: list[Any], limit: int, now_ms: int, records: list[Any]) -> tuple[int, int, bool]:
        """From the front of the buffer to the first that may not be handed out, or is behind: they go to records.

        Returns how many of the buffer that were, and their bytes, those that are not wanted included; and whether one
        of their books needs an announcement.
        """
