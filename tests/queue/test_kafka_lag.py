"""Lag from watermarks, committed offsets and notes: true without a consumer, after a rebalance, beside transactions."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from tests.kafka.fixtures import Kafka
from tests.queue.backends import message, take_all
from tests.queue.kafka_backend import TIMEOUT_S, KafkaBackend
from tests.queue.test_kafka import delete_topic, hold_all, topic
from tests.support import eventually
from zpush.errors import QueueUnavailable
from zpush.protocol.message import Priority
from zpush.queue import kafka_names, kafka_note
from zpush.queue.kafka_consumer import COMMIT_S
from zpush.queue.kafka_lag import LagReader, _backlog

NORMAL, HIGH = Priority.NORMAL, Priority.HIGH


async def test_without_any_consumer_everything_is_backlog(on_kafka: KafkaBackend) -> None:
    producer = await on_kafka.producer()
    assert {p: lag.messages for p, lag in (await producer.lag()).items()} == dict.fromkeys(Priority, 0)
    await producer.publish([message(f"c{i}") for i in range(50)] + [message("c1", priority=HIGH)])
    lag = await producer.lag()
    assert (lag[HIGH].messages, lag[NORMAL].messages, lag[Priority.LOW].messages) == (1, 50, 0)
    assert lag[Priority.LOW].age_s == 0.0 < lag[HIGH].age_s < 60


async def test_the_age_is_that_of_the_oldest_unfinished_record(on_kafka: KafkaBackend) -> None:
    """Records of known age, the oldest in another partition than the newest; then it is finished."""
    producer, consumer = await on_kafka.producer(), await on_kafka.consumer()
    now_ms = time.time_ns() // 1_000_000
    for partition, age_s in ((0, 1000), (1, 3000), (1, 2000)):
        await on_kafka.produce_at(NORMAL, partition, now_ms - age_s * 1000)
    assert 3000 <= (await producer.lag())[NORMAL].age_s < 3100
    records = await take_all([consumer], 3, finish=False)
    by_age = sorted(records, key=lambda r: r.message.queued_ms)
    assert 3000 <= (await producer.lag())[NORMAL].age_s < 3100, "taken is not finished"
    for record, (count, age_s) in zip(by_age, ((2, 2000), (1, 1000), (0, 0)), strict=True):
        consumer.finish([record])

        async def as_due(count: int = count, age_s: int = age_s) -> bool:
            lag = (await producer.lag())[NORMAL]
            return lag.messages == count and age_s <= lag.age_s < age_s + 100

        await eventually(as_due)


async def test_what_is_finished_is_committed_within_a_second(
    on_kafka: KafkaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the next tick, unless a commit is under way then."""
    producer, consumer = await on_kafka.producer(), await on_kafka.consumer()
    reader = consumer._readers[NORMAL]
    tick, commit, ticks = reader.tick, reader._poller.commit, 0
    offsets: list[int] = []

    def counted() -> None:
        nonlocal ticks
        ticks += 1
        tick()

    def seen(commits: list[Any]) -> None:
        offsets.extend(each.offset for each in commits)
        commit(commits)

    monkeypatch.setattr(reader, "tick", counted)
    monkeypatch.setattr(reader._poller, "commit", seen)
    took = []
    for finished in range(1, 6):
        await producer.publish([message("c1")])
        records = await take_all([consumer], 1, finish=False)
        begun = ticks
        consumer.finish(records)
        await eventually(lambda finished=finished: finished in offsets, "its commit has begun")
        took.append(ticks - begun)
    assert min(took) * COMMIT_S < 1.0


async def test_what_is_finished_behind_an_unfinished_record_is_no_backlog(on_kafka: KafkaBackend) -> None:
    producer, consumer = await on_kafka.producer(), await on_kafka.consumer()
    await producer.publish([message("c1") for _ in range(100)])
    records = await take_all([consumer], 100, finish=False)
    consumer.finish(records[1:60])

    async def forty_one() -> bool:
        return (await producer.lag())[NORMAL].messages == 41

    await eventually(forty_one)
    await on_kafka.stop(consumer)
    assert await forty_one(), "after it has gone, too"
    other = await on_kafka.consumer()
    await hold_all(on_kafka, other)
    assert await forty_one(), "and after a rebalance"


def test_what_was_finished_before_the_oldest_record_that_is_left_counts_for_nothing() -> None:
    """Retention has deleted up to 60, unfinished and finished ones."""
    note = kafka_note.encode(0, 100, [range(10, 40), range(55, 70)])
    backlog = _backlog(TopicPartition("zpush.normal", 0, 0, note), 60, 100)
    assert (backlog.offset, backlog.messages) == (60, 30)


async def test_what_was_committed_for_a_longer_log_is_as_good_as_nothing(on_kafka: KafkaBackend) -> None:
    """Brokers lost the log's end, or somebody set the offset by hand. A reader begins with the oldest record."""
    producer = await on_kafka.producer()
    await producer.publish([message("c1") for _ in range(5)])
    group = kafka_names.group(on_kafka.queue().kafka.group, NORMAL)
    note = kafka_note.encode(1000, 2000, [range(1001, 1500)])
    beyond = TopicPartition(topic(on_kafka), on_kafka.layout.partition_of("c1"), 1000, note)
    somebody = Consumer({"bootstrap.servers": on_kafka.server.bootstrap, "group.id": group})
    somebody.commit(offsets=[beyond], asynchronous=False)
    somebody.close()
    lag = (await producer.lag())[NORMAL]
    assert lag.messages == 5 and lag.age_s > 0
    assert len(await take_all([await on_kafka.consumer()], 5)) == 5
    await eventually(on_kafka.empty)


async def test_an_end_that_is_older_than_a_commit_makes_no_backlog(
    on_kafka: KafkaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is read, more is written, finished and committed."""
    producer, consumer = await on_kafka.producer(), await on_kafka.consumer()
    await producer.publish([message("c1") for _ in range(50)])
    await take_all([consumer], 50)
    await eventually(on_kafka.empty)
    reader = LagReader(on_kafka.queue(), on_kafka.server.url)
    loop = asyncio.get_running_loop()
    steps: list[str] = []

    async def more() -> None:
        await producer.publish([message("c1")])
        await take_all([consumer], 1)
        await eventually(on_kafka.empty)

    def slow(name: str) -> None:
        step = getattr(reader, name)

        def slowly(*arguments: Any) -> Any:
            found = step(*arguments)
            steps.append(name)
            asyncio.run_coroutine_threadsafe(more(), loop).result(TIMEOUT_S)
            return found

        monkeypatch.setattr(reader, name, slowly)

    slow("_committed")
    slow("_offsets")
    assert (await reader.read())[NORMAL].messages <= len(steps)
    await reader.close()


async def test_marks_of_transactions_are_no_messages(on_kafka: KafkaBackend) -> None:
    """A sender with transactions leaves a mark behind each; the last one lies after all records, for ever."""
    consumer = await on_kafka.consumer()
    sender = Producer({"bootstrap.servers": on_kafka.server.bootstrap, "transactional.id": on_kafka.layout.prefix})
    sender.init_transactions(TIMEOUT_S)
    for _ in range(3):
        sender.begin_transaction()
        sender.produce(topic(on_kafka), b"x", b"c1")
        sender.commit_transaction(TIMEOUT_S)
    sender.begin_transaction()
    sender.produce(topic(on_kafka), b"never", b"c1")
    sender.flush(TIMEOUT_S)
    sender.abort_transaction(TIMEOUT_S)
    records = await take_all([consumer], 3)
    assert {r.message.payload for r in records} == {b"x"}
    await eventually(on_kafka.empty)
    assert (await on_kafka.lag()).age_s == 0.0


async def test_a_missing_topic_has_no_backlog(on_kafka: KafkaBackend) -> None:
    producer = await on_kafka.producer()
    await producer.publish([message("c1", priority=HIGH)])
    delete_topic(on_kafka)
    await eventually(lambda: topic(on_kafka) not in on_kafka.topics())
    lag = await producer.lag()
    assert (lag[HIGH].messages, lag[NORMAL].messages) == (1, 0)


async def test_readings_at_once_do_not_get_into_each_others_way(on_kafka: KafkaBackend) -> None:
    producer = await on_kafka.producer()
    await producer.publish([message(f"c{i}") for i in range(30)])
    readings = await asyncio.gather(*(producer.lag() for _ in range(5)))
    assert [lag[NORMAL].messages for lag in readings] == [30] * 5


async def test_the_age_is_that_of_many_partitions_with_a_backlog_each(kafka: Kafka) -> None:
    """Each has far more than is wanted of it; all of their oldest are read in the time that there is."""
    backend = KafkaBackend(kafka, kafka.prefix, partitions=12)
    now_ms = time.time_ns() // 1_000_000
    for partition in range(12):
        await backend.produce_at(NORMAL, partition, now_ms - (partition + 1) * 1_000_000)
        await backend.produce_many(NORMAL, partition, [(b"x" * 1000, b"c1", [])] * 100)
    reader = LagReader(backend.queue(), kafka.url)
    lag = (await reader.read())[NORMAL]
    assert lag.messages == 12 * 101 and 12_000 <= lag.age_s < 13_000
    assert len(reader._oldest) == 12
    await reader.close()


async def test_brokers_that_have_just_started_are_asked_again(monkeypatch: pytest.MonkeyPatch, kafka: Kafka) -> None:
    reader = LagReader(KafkaBackend(kafka, kafka.prefix).queue(), kafka.url)
    asked, codes = reader._committed, [KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.NOT_COORDINATOR]

    def loading(*arguments: Any) -> Any:
        if codes:
            raise KafkaException(KafkaError(codes.pop()))
        return asked(*arguments)

    monkeypatch.setattr(reader, "_committed", loading)
    assert (await reader.read())[NORMAL].messages == 0
    assert not codes
    await reader.close()


async def test_nobody_there_is_an_error(kafka: Kafka) -> None:
    reader = LagReader(KafkaBackend(kafka, kafka.prefix).queue(), "kafka://127.0.0.1:1")
    with pytest.raises(QueueUnavailable, match="Kafka"):
        await reader.read()
    await reader.close()
