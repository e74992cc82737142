"""Kafka's reports about records, for queue/kafka_sender.py and kafka_producer.py. All are called within poll()."""

import asyncio
from collections.abc import Callable, Sequence, Sized
from typing import Any, Generic, TypeVar

_Index = TypeVar("_Index")
_Message = TypeVar("_Message")

class Enough(Exception):
    """poll() raises it when the turn has no more room; there may be more reports."""

class Turn:
    """Of polling: how many reports a poll() serves."""

    def __init__(self, error_of: Callable[[Any, Any], Exception]) -> None:
        """error_of(error, record): a failure in the caller's words."""

    def begin(self, room: int) -> None: ...

class Report(Generic[_Index]):
    """What librdkafka calls about one record."""

    def __init__(self, turn: Turn, settle: Callable[[_Index, Exception | None], None], index: _Index) -> None: ...
    def __call__(self, error: object, record: object) -> None: ...

class Reports:
    """The reports of one call, counted. Subclasses say what follows from them."""

    def __init__(self, turn: Turn, *_: object) -> None: ...
    def expect(self, count: int) -> bool:
        """There will be so many. Whether all are here already; if not, complete() is called with the last."""

    def failed(self, index: int, error: Exception) -> None:
        """Overridden."""

    def complete(self) -> None:
        """Overridden."""

class ReportOf:
    """What librdkafka calls about one record of a call."""

    def __init__(self, reports: Reports, index: int) -> None: ...
    def __call__(self, error: object, record: object) -> None: ...

class Singles:
    """Pushes that come alone, from their fields to their result. taken, refused: those that were sent."""

    taken: int
    refused: int

    def __init__(
        self,
        sender: Any,
        calls: Sized,
        topics: Sequence[str],
        message_of: Callable[[dict[str, Any]], _Message | None],
        headers_of: Callable[[_Message], object],
        max_payload_bytes: int,
    ) -> None:
        """sender: queue/kafka_sender.py's. calls: those that stand in line; while there are any, none begins here."""

    def watch(
        self, loop: asyncio.AbstractEventLoop, on_begun: Callable[[], None], on_quiet: Callable[[], None]
    ) -> None:
        """Called first. on_begun() is called when one gets under way and none was, on_quiet() when none is any more."""

    def begin(self, fields: dict[str, Any]) -> asyncio.Future[str] | None:
        """Its id, or its exception. None where it needs the long way; nothing has happened then."""
