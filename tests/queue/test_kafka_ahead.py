"""What a reader on Kafka reads ahead: bounded in records and bytes, paused meanwhile, and on the move all the same."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.queue.backends import message, take_all
from tests.queue.kafka_backend import KafkaBackend
from tests.queue.test_kafka import NORMAL, hold_all
from tests.support import eventually
from zpush.queue.kafka_consumer import AHEAD_BATCHES


async def test_what_waits_here_is_bounded_and_rebalances_are_answered_meanwhile(on_kafka: KafkaBackend) -> None:
    """A reader that takes nothing pauses its partitions, gives some up all the same, and goes on when there is room."""
    producer, first = await on_kafka.producer(), await on_kafka.consumer(batch=20, sure=True)
    sent = [message(f"c{i % 97}", "x" * 300) for i in range(4000)]
    assert await producer.publish(sent) == [None] * len(sent)
    reader = first._readers[NORMAL]
    await eventually(lambda: reader._poller._is_paused, "it has enough")
    assert len(reader._buffer) <= (AHEAD_BATCHES + 1) * 20
    second = await on_kafka.consumer(batch=20, sure=True)
    await eventually(lambda: len(on_kafka.partitions_of(second)) == 2 == len(on_kafka.partitions_of(first)))
    await eventually(lambda: reader._poller._is_paused, "it took nothing, and has enough again")
    await on_kafka.stop(second)  # unread
    await hold_all(on_kafka, first)
    records = await take_all([first], len(sent))
    assert Counter(r.message.id for r in records) == Counter(m.id for m in sent)
    assert not any(r.redelivered for r in records)


async def test_partitions_that_come_back_after_a_pause_are_read(on_kafka: KafkaBackend) -> None:
    """librdkafka remembers a pause beyond the revocation of what was paused."""
    producer, first = await on_kafka.producer(), await on_kafka.consumer(batch=20)
    await producer.publish([message(f"c{i % 97}") for i in range(400)])
    reader = first._readers[NORMAL]
    await eventually(lambda: reader._poller._is_paused)
    second = await on_kafka.consumer(batch=20)
    await eventually(lambda: len(on_kafka.partitions_of(second)) == 2 == len(on_kafka.partitions_of(first)))
    await take_all([first, second], 400)
    await eventually(lambda: not reader._poller._is_paused)
    await on_kafka.stop(second)
    await hold_all(on_kafka, first)
    await producer.publish([message(f"c{i % 97}") for i in range(400)])
    assert len(await take_all([first], 400)) == 400


async def test_bytes_are_bounded_too(on_kafka: KafkaBackend) -> None:
    producer, consumer = await on_kafka.producer(), await on_kafka.consumer()
    sent = [message(f"c{i}", "x" * 500_000) for i in range(100)]
    for one in sent:
        assert await producer.publish([one]) == [None]
    reader = consumer._readers[NORMAL]
    await eventually(lambda: reader._poller._is_paused)
    waiting = sum(map(len, reader._buffer))
    assert waiting < 8 * 2**20 + 500 * 500_000 and len(reader._buffer) < 100, "a batch past the bound at most"
    records = await take_all([consumer], 100)
    assert {r.message.id for r in records} == {m.id for m in sent}


async def test_partitions_that_come_while_there_is_no_room_bring_nothing(
    on_kafka: KafkaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer, first = await on_kafka.producer(), await on_kafka.consumer(batch=20, sure=True)
    second = await on_kafka.consumer(batch=20, sure=True)
    await eventually(lambda: len(on_kafka.partitions_of(second)) == 2 == len(on_kafka.partitions_of(first)))
    sent = [message(f"c{i % 97}") for i in range(4000)]
    assert await producer.publish(sent) == [None] * len(sent)
    poller = first._readers[NORMAL]._poller
    await eventually(lambda: poller._is_paused, "it has enough")
    brought, commit, polls = poller._brought, poller._commit, 0

    def counted() -> None:
        """In front of each poll."""
        nonlocal polls
        polls += 1
        commit()

    monkeypatch.setattr(poller, "_commit", counted)
    await on_kafka.stop(second)
    await hold_all(on_kafka, first)
    until = polls + 30
    await eventually(lambda: polls >= until, "it was asked for more")
    assert (poller._is_paused, poller._brought) == (True, brought)
    records = await take_all([first], len(sent))
    assert Counter(r.message.id for r in records) == Counter(m.id for m in sent)
