"""A reader and its thread without a broker: rebalances that are answered in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Message as KafkaRecord

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
    """A consumer whose consume() answers a rebalance, and has one record of each partition beside it.

    committed: (partition, offset) in the order in which they came.
    """

    def __init__(self, rebalance: Callable[[Any, Any], None]) -> None:
        self._rebalance = rebalance
        self.committed: list[tuple[int, int]] = []

    def poll(self, timeout_s: float) -> Raw:
        return Raw(0, 5)

    def consume(self, count: int, timeout_s: float) -> list[Raw]:
        found = [Raw(0, 6), Raw(1, 7)]
        self._rebalance(self, [Place(0)])
        return found

    def commit(self, offsets: Any, asynchronous: bool) -> list[Any]:
        self.committed += [(each.partition, each.offset) for each in offsets]
        return []

    def incremental_unassign(self, partitions: Any) -> None: ...


class World:
    """A reader that holds partitions 0 and 1, of which `how` takes the first away."""

    def __init__(self, how: str) -> None:
        self.reader = Reader(
            NORMAL, TOPIC, TOPIC, "zpush.dead", CONFIG, 1000, 1.0, lambda *_: None, lambda *_: None, bool
        )
        self.poller = self.reader._poller
        self.handle = Handle(getattr(self.poller, how))
        self.poller._loop = asyncio.get_running_loop()
        self.poller._consumer = self.handle  # type: ignore[assignment]
        keys = [(TOPIC, number) for number in (0, 1)]
        self.poller._held.update(keys)
        self.reader.assigned([Tenure(key, 0, Note(0), 10) for key in keys])


@pytest.mark.parametrize(("session", "suspect_s"), [("", 4.0), ("45000", 4.0), ("1500", 0.75)])
async def test_a_stop_is_suspect_before_any_session_ends(session: str, suspect_s: float) -> None:
    config = {**CONFIG, "session.timeout.ms": session} if session else CONFIG
    reader = Reader(NORMAL, TOPIC, TOPIC, "zpush.dead", config, 1000, 1.0, lambda *_: None, lambda *_: None, bool)
    assert reader._suspect_s == suspect_s


@pytest.mark.parametrize("how", ["_on_revoke", "_on_lost"])
async def test_records_that_are_in_hand_when_their_partition_goes_are_dropped(how: str) -> None:
    world = World(how)
    await asyncio.to_thread(world.poller._commit)
    await asyncio.to_thread(world.poller._read, 500)
    await asyncio.sleep(0)  # what it has told the loop
    assert [(r.partition, r.position) for r in world.reader.take(10)] == [(1, 7)]
    assert world.poller._brought - world.reader.taken == 0, "nothing is waited for that will not come"


@pytest.mark.parametrize(("how", "last"), [("_on_revoke", [(0, 0)]), ("_on_lost", [])])
async def test_a_commit_that_a_rebalance_has_overtaken_is_not_made(how: str, last: list[tuple[int, int]]) -> None:
    """It would take the next owner back to where this one was."""
    world = World(how)
    await asyncio.to_thread(world.poller._read, 500)  # before the commit's turn
    assert world.handle.committed == last
    await asyncio.to_thread(world.poller._commit)
    assert world.handle.committed == [*last, (1, 0)]


def written(offset: int, key: bytes | None = b"c1", headers: list[Any] | None = None, topic: str = TOPIC) -> Any:
    usual = [("id", b"m%d" % offset), ("type", b"text")]
    return KafkaRecord(topic, 0, offset, key, b"x", usual if headers is None else headers, None, (1, 5))


async def test_records_of_every_form_are_taken_in_the_order_of_their_offsets() -> None:
    copies, dead = f"eu.{TOPIC}", []
    reader = Reader(
        NORMAL, TOPIC, TOPIC, "zpush.dead", CONFIG, 1000, 1.0, lambda *_: None, lambda *_: None, lambda: None
    )
    reader._dead.bury = lambda raw, headers, reason, then: dead.append(raw.offset())  # type: ignore[method-assign]
    reader.assigned([Tenure((TOPIC, 0), 0, Note(3, (range(2, 3),)), 10), Tenure((copies, 0), 0, Note(0), 10)])
    reader.answered(True)
    forms = [
        written(0),
        written(1, headers=[("type", b"binary"), ("id", b"m1")]),
        written(2),
        written(3, key=None),
        written(0, topic=copies),
        written(4),
        written(7),
        written(5),
        written(6),
    ]
    reader.arrived(forms)
    first, rest = reader.take(2), reader.take(100)
    assert [(r.message.id, r.position, r.redelivered, r.copied) for r in first + rest] == [
        ("m0", 0, True, False),
        ("m1", 1, True, False),
        ("m0", 0, False, True),
        ("m4", 4, False, False),
        ("m7", 7, False, False),
    ]
    assert dead == [3], "it has no key"
    assert (reader.taken, reader.taken_bytes) == (7, 7)
    assert not reader.ready, "the log is another one, and not announced"
    reader.answered(True)
    reader.answered(True)
    assert [r.position for r in reader.take(1)] == [5]
