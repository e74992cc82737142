"""A reader and its thread without a broker: rebalances that are answered in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Message as KafkaRecord

from tests.support import eventually
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


@pytest.mark.parametrize("is_lost", [True, False])
async def test_what_was_read_ahead_of_a_partition_that_goes_is_dropped(is_lost: bool) -> None:
    reader = Reader(NORMAL, TOPIC, TOPIC, "zpush.dead", CONFIG, 1000, 1.0, lambda *_: None, lambda *_: None, bool)
    reader.assigned([Tenure((TOPIC, number), 0, Note(0), 10) for number in (0, 1)])
    reader.answered(True)
    reader.arrived([Raw(0, 0), Raw(1, 0), Raw(0, 1)])  # type: ignore[list-item]
    if is_lost:
        reader.lost([(TOPIC, 0)])
    else:
        assert [commit.offset for commit in await reader.give_up([(TOPIC, 0)])] == [0]
    assert [(r.partition, r.position) for r in reader.take(10)] == [(1, 0)]
    assert (reader.taken, reader.taken_bytes) == (3, 3), "nothing is waited for that will not come"


@pytest.mark.parametrize(("how", "last"), [("_on_revoke", [(0, 0)]), ("_on_lost", [])])
async def test_a_commit_that_a_rebalance_has_overtaken_is_not_made(how: str, last: list[tuple[int, int]]) -> None:
    """It would take the next owner back to where this one was."""
    world = World(how)
    await asyncio.to_thread(world.poller._read, 500)  # before the commit's turn
    assert world.handle.committed == last
    await asyncio.to_thread(world.poller._commit)
    assert world.handle.committed == [*last, (1, 0)]


async def test_what_was_used_up_during_a_commit_is_announced_by_the_next_one_at_once() -> None:
    reader = Reader(NORMAL, TOPIC, TOPIC, "zpush.dead", CONFIG, 2000, 1.0, lambda *_: None, lambda *_: None, bool)
    commits = reader._poller._commits
    reader.assigned([Tenure((TOPIC, number), 0, Note(0), 10**6) for number in (0, 1)])
    reader.answered(True)
    for number in (0, 1):
        records: list[Any] = [Raw(number, n) for n in range(600)]
        reader.arrived(records)
        assert len(reader.take(600)) == 600
    assert [[commit.key[1] for commit in some] for some in commits] == [[0, 1], [0]], "one is under way at most"
    reader.answered(True)
    assert [[commit.key[1] for commit in some] for some in commits] == [[0, 1], [0], [1]]


class ThrownOut:
    """A consumer with records without end, whose group throws it out: commits fail, and poll() tells why."""

    def __init__(self) -> None:
        self.offset = self.refused = 0
        self.is_out = self.has_told = False

    def subscribe(self, topics: Any, on_assign: Any, on_revoke: Any, on_lost: Callable[[Any, Any], None]) -> None:
        self._on_lost = on_lost

    def poll(self, timeout_s: float) -> Raw | None:
        if self.is_out:
            if not self.has_told:
                self.has_told = True
                self._on_lost(self, [Place(0)])
            time.sleep(timeout_s)
            return None
        self.offset += 1
        return Raw(0, self.offset - 1)

    def consume(self, count: int, timeout_s: float) -> list[Raw]:
        if self.is_out:
            return []
        self.offset += count
        return [Raw(0, n) for n in range(self.offset - count, self.offset)]

    def commit(self, offsets: Any, asynchronous: bool) -> list[Any]:
        if self.is_out:
            self.refused += 1
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))
        return []

    def assignment(self) -> list[Any]:
        return []

    def pause(self, partitions: Any) -> None: ...

    def resume(self, partitions: Any) -> None: ...

    def incremental_unassign(self, partitions: Any) -> None: ...

    def close(self) -> None: ...


async def test_a_reader_whose_commits_fail_asks_its_consumer_why() -> None:
    """It was stopped for long, beside a backlog: it may hand out nothing, so nothing makes room for records."""
    reader = Reader(NORMAL, TOPIC, TOPIC, "zpush.dead", CONFIG, 1000, 1.0, lambda *_: None, lambda *_: None, bool)
    poller, handle = reader._poller, ThrownOut()
    poller._loop = asyncio.get_running_loop()
    poller._consumer = handle  # type: ignore[assignment]
    poller._held.add((TOPIC, 0))
    reader.assigned([Tenure((TOPIC, 0), 0, Note(0), 10**6)])
    poller._thread.start()
    await eventually(lambda: reader.take(100))
    await eventually(lambda: len(reader._buffer) > 500, "it is full")
    handle.is_out = True
    reader._alive_s -= 10
    await eventually(lambda: reader.take(100) == [] and handle.has_told)
    assert handle.refused <= 2, "what failed waits for the next tick"
    await eventually(lambda: not reader.partitions)
    await reader.stop()


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
