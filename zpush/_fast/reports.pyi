"""Counts Kafka's reports, for queue/kafka_producer.py."""

from typing import Any

class Reports:
    """Of one call. Subclasses say what follows from them."""

    def expect(self, count: int) -> bool:
        """There will be so many. Whether all are here already; if not, complete() is called with the last."""

    def failed(self, index: int, error: Any, record: Any) -> None:
        """Overridden. In the thread that polls."""

    def complete(self) -> None:
        """Overridden. In the thread that polls."""

class Report:
    """What librdkafka calls about one message."""

    def __init__(self, reports: Reports, index: int) -> None: ...
    def __call__(self, error: object, record: object) -> None: ...
