"""A reader and its thread without a broker: rebalances that are answered in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from zpush.protocol.message import Priority
from zpush.queue.kafka_note import Note
from zpush.queue.kafka_partition import Tenure
from zpush.queue.kafka_reader import Reader

NORMAL, TOPIC = Priority.NORMAL, "zpush.normal"
CONFIG = {"bootstrap.servers": "127.0.0.1:1", "group.id": "g", "group.protocol": "classic"}


class Place:
    """A TopicPartition, as far as it is looked at."""

    def __init__(self, partition: int) -> None:
        self.topic, self.partition = TOPIC, partition


class Raw:
    """A record, as far as it is looked at before it is handed out."""

    def __init__(self, partition: int, offset: int) -> None:
        self._partition, self._offset = partition, offset

    def topic(self) -> str:
        return TOPIC

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def error(self) -> None:
        return None

    def headers(self) -> None:
        return None

    def key(self) -> bytes:
        return b"c1"

    def value(self) -> bytes:
        return b"x"

    def timestamp(self) -> tuple[int, int]:
        return 0, 0

    def __len__(self) -> int:
        return 1


class Handle:
    """A consumer whose consume() answers a rebalance, and has one record of each partition beside it."""

    def __init__(self, rebalance: Callable[[Any, Any], None]) -> None:
        self._rebalance = rebalance

    def poll(self, timeout_s: float) -> Raw:
        return Raw(0, 5)

    def consume(self, count: int, timeout_s: float) -> list[Raw]:
        found = [Raw(0, 6), Raw(1, 7)]
        self._rebalance(self, [Place(0)])
        return found

    def commit(self, offsets: Any, asynchronous: bool) -> list[Any]:
        return []

    def incremental_unassign(self, partitions: Any) -> None: ...


@pytest.mark.parametrize(("session", "suspect_s"), [("", 4.0), ("45000", 4.0), ("1500", 0.75)])
async def test_a_stop_is_suspect_before_any_session_ends(session: str, suspect_s: float) -> None:
    config = {**CONFIG, "session.timeout.ms": session} if session else CONFIG
    reader = Reader(NORMAL, TOPIC, TOPIC, "zpush.dead", config, 1000, 1.0, lambda *_: None, lambda *_: None, bool)
    assert reader._suspect_s == suspect_s


@pytest.mark.parametrize("how", ["_on_revoke", "_on_lost"])
async def test_records_that_are_in_hand_when_their_partition_goes_are_dropped(how: str) -> None:
    reader = Reader(NORMAL, TOPIC, TOPIC, "zpush.dead", CONFIG, 1000, 1.0, lambda *_: None, lambda *_: None, bool)
    poller = reader._poller
    poller._loop = asyncio.get_running_loop()
    poller._consumer = Handle(getattr(poller, how))  # type: ignore[assignment]
    reader.assigned([Tenure((TOPIC, number), 0, Note(0), 10) for number in (0, 1)])
    reader.answered(True)
    await asyncio.to_thread(poller._read, 500)
    await asyncio.sleep(0)  # what it has told the loop
    assert [(r.partition, r.position) for r in reader.take(10)] == [(1, 7)]
    assert poller._brought - reader.taken == 0, "nothing is waited for that will not come"
