"""What is particular to Kafka: garbage, rebalances, notes beside offsets, topics that go, a broker that dies."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

from tests.kafka import raw
from tests.kafka.broker import Broker
from tests.kafka.fixtures import Kafka
from tests.queue.backends import message, take_all
from tests.queue.kafka_backend import TIMEOUT_S, KafkaBackend, read_all
from tests.support import eventually
from zpush._fast.record import Record
from zpush.errors import QueueUnavailable
from zpush.protocol.message import Priority
from zpush.queue import kafka_names
from zpush.queue.entry import MAX_PAYLOAD_BYTES
from zpush.queue.kafka_consumer import KafkaConsumer
from zpush.queue.kafka_topics import Topics

NORMAL = Priority.NORMAL
EVERY = {0, 1, 2, 3}
REBALANCED_S = 120.0  # ten members on a busy machine take a round of two each time one of them comes or goes


def topic(backend: KafkaBackend, priority: Priority = NORMAL) -> str:
    return kafka_names.topic(backend.layout.prefix, priority)


def configure(backend: KafkaBackend, name: str, value: str) -> None:
    """The topic of priority normal."""
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic(backend), incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": backend.server.bootstrap})
    admin.incremental_alter_configs([resource])[resource].result(TIMEOUT_S)


def delete_topic(backend: KafkaBackend) -> None:
    admin = AdminClient({"bootstrap.servers": backend.server.bootstrap})
    admin.delete_topics([topic(backend)])[topic(backend)].result(TIMEOUT_S)


def make_topics(backend: KafkaBackend) -> None:
    topics = Topics(backend.queue(), backend.server.url, TIMEOUT_S)
    topics.create(topics.missing())


async def hold_all(backend: KafkaBackend, consumer: KafkaConsumer) -> None:
    await eventually(lambda: backend.partitions_of(consumer) == EVERY, "all partitions")


# What cannot be read


async def test_garbage_at_the_head_of_a_partition_stops_nothing(on_kafka: KafkaBackend) -> None:
    """A thousand records, in the way of one that can be read."""
    producer, consumer = await on_kafka.producer(), await on_kafka.consumer()
    partition = on_kafka.layout.partition_of("c1")
    await on_kafka.produce_many(NORMAL, partition, [(b"\xff", b"c1", [("type", b"text")])] * 1000)
    await producer.publish([message("c1", "behind it"), message("c1", "and another")])
    records = await take_all([consumer], 2)
    assert [r.message.payload for r in records] == [b"behind it", b"and another"]
    await eventually(on_kafka.empty, "garbage is finished")
    letters = await on_kafka.dead()
    assert sorted(int(letter["offset"]) for letter in letters) == list(range(1000))
    assert {letter["topic"] for letter in letters} == {topic(on_kafka)}
    assert on_kafka.dead_letters == [(NORMAL, False)] * 1000


async def test_a_record_that_no_letter_can_hold_is_told_of(on_kafka: KafkaBackend) -> None:
    """10 MiB, where somebody has allowed that for the topic. The letter says where it still lies."""
    configure(on_kafka, "max.message.bytes", "16777216")
    producer, consumer = await on_kafka.producer(), await on_kafka.consumer()
    partition = on_kafka.layout.partition_of("c1")
    large = b"x" * (10 << 20)
    offset = await on_kafka.produce(NORMAL, partition, large, b"c1", [("id", b"big")])
    largest = message("c1", "y" * MAX_PAYLOAD_BYTES)
    await producer.publish([largest])
    [record] = await take_all([consumer], 1)
    assert record.message.payload == largest.payload
    await eventually(on_kafka.empty)
    [letter] = await on_kafka.dead()
    assert letter["entry"] == offset and letter["stream"] == on_kafka.layout.stream(NORMAL, partition)
    assert str(MAX_PAYLOAD_BYTES) in letter["reason"]
    assert not letter.keys() & {"payload", "key", "id"}


async def test_header_names_that_are_no_text_do_no_harm(on_kafka: KafkaBackend) -> None:
    consumer = await on_kafka.consumer()
    for headers in ([(b"\xff\xfe", b"x"), (b"type", b"text")], [(b"id", b"a"), (b"\xc3(", None)]):
        batch = raw.batch_of(b"hello", headers=headers)
        await eventually(lambda batch=batch: raw.produce(on_kafka.server.bootstrap, topic(on_kafka), 0, batch) == 0)
    await on_kafka.produce(NORMAL, 0, b"good", b"c1", [])
    [record] = await take_all([consumer], 1)
    assert record.message.payload == b"good"
    await eventually(on_kafka.empty, "the others are dead letters")
    letters = await on_kafka.dead()
    assert [letter["entry"] for letter in letters] == ["0", "1"]
    assert all("header" in letter["reason"] and letter["payload"] == "hello" for letter in letters)


async def test_letters_that_cannot_be_written_are_written_later(on_kafka: KafkaBackend) -> None:
    """The topic of dead letters is gone: what waits for it is bounded, and nothing of it counts as finished."""
    dead = kafka_names.dead(on_kafka.layout.prefix)
    admin = AdminClient({"bootstrap.servers": on_kafka.server.bootstrap})
    admin.delete_topics([dead])[dead].result(TIMEOUT_S)
    soon = {"topic_metadata_propagation_max_ms": "200", "topic_metadata_refresh_interval_ms": "300"}
    consumer = await on_kafka.consumer(**soon)
    await on_kafka.produce_many(NORMAL, 0, [(b"\xff", b"c1", [])] * 1500)
    reader = consumer._readers[NORMAL]
    await eventually(lambda: (consumer.take(NORMAL, 500), reader._dead.full)[1], "no more letters at once")
    assert not reader.ready
    assert (await on_kafka.lag()).messages == 1500
    make_topics(on_kafka)

    async def all_written() -> bool:
        consumer.take(NORMAL, 500)
        return await on_kafka.empty()

    await eventually(all_written)
    assert Counter(letter["entry"] for letter in await on_kafka.dead()) == Counter(map(str, range(1500)))


# Who reads what


async def test_a_partition_given_up_with_holes_is_read_on_without_repetition(on_kafka: KafkaBackend) -> None:
    producer, first = await on_kafka.producer(), await on_kafka.consumer()
    await producer.publish([message(f"c{i}") for i in range(200)])
    records = await take_all([first], 200, finish=False)
    unfinished = {r.message.id for r in records[::7]}
    first.finish([r for r in records if r.message.id not in unfinished])
    second = await on_kafka.consumer()
    await eventually(lambda: len(on_kafka.partitions_of(second)) == 2)
    theirs = on_kafka.partitions_of(second)
    due = {r.message.id for r in records if r.partition in theirs} & unfinished
    again = await take_all([second], len(due))
    assert {r.message.id for r in again} == due
    assert all(r.redelivered for r in again)
    first.finish([r for r in records if r.message.id in unfinished])
    await eventually(on_kafka.empty)


async def test_only_what_may_have_been_taken_is_called_redelivered(on_kafka: KafkaBackend) -> None:
    """After a kill: as far as was announced, and no further."""
    producer, first = await on_kafka.producer(), await on_kafka.consumer(batch=10)
    sent = [message("one client") for _ in range(3000)]
    await producer.publish(sent)
    await take_all([first], 50, finish=False)
    await on_kafka.abandon(first)
    records = await take_all([await on_kafka.consumer()], 3000)
    assert [r.message.id for r in records] == [m.id for m in sent]
    marks = [r.redelivered for r in records]
    assert all(marks[:50]) and not any(marks[1500:])


async def test_the_group_sees_a_leaver_at_once(on_kafka: KafkaBackend) -> None:
    first, second = await on_kafka.consumer(session_timeout_ms="45000"), await on_kafka.consumer()
    await eventually(lambda: len(on_kafka.partitions_of(second)) == 2)
    begin_s = time.monotonic()
    await on_kafka.stop(first)
    await hold_all(on_kafka, second)
    assert time.monotonic() - begin_s < 30, "its session would have lasted longer"


async def test_members_come_and_go_and_every_message_comes_in_order(on_kafka: KafkaBackend) -> None:
    """Nine come at once, and nine go at once, those who hold the partitions among them. What a reader has in hand when
    it goes is finished first. Where a busy machine lets a session run out, a record may come again, and says so.
    """
    producer = await on_kafka.producer()
    consumers = [await on_kafka.consumer(lease_ttl_s=60)]
    sent: dict[str, list[str]] = defaultdict(list)
    got: list[Record] = []
    stopping = asyncio.Event()

    async def send() -> None:
        while not stopping.is_set():
            batch = [message(f"c{i}") for i in range(20)]
            for one in batch:
                sent[one.key].append(one.id)
            assert await producer.publish(batch) == [None] * 20
            await asyncio.sleep(0.01)

    async def read() -> None:
        while True:
            for consumer in consumers:
                records = consumer.take(NORMAL, 50)
                got.extend(records)
                await asyncio.sleep(0)
                consumer.finish(records)
            await asyncio.sleep(0.001)

    def shared() -> bool:
        held = [on_kafka.partitions_of(consumer) for consumer in consumers]
        return sorted(map(len, held)) == [0] * (len(held) - len(EVERY)) + [1] * len(EVERY)

    async def everything() -> bool:
        return len({r.message.id for r in got}) == sum(map(len, sent.values())) and await on_kafka.empty()

    tasks = [asyncio.create_task(send()), asyncio.create_task(read())]
    for _ in range(2):
        consumers += await asyncio.gather(*(on_kafka.consumer(lease_ttl_s=60) for _ in range(9)))
        await eventually(shared, "four of ten have a partition each", REBALANCED_S)
        leavers = sorted(consumers, key=lambda it: len(on_kafka.partitions_of(it)))[1:]  # all holders
        consumers[:] = [consumer for consumer in consumers if consumer not in leavers]
        await asyncio.gather(*map(on_kafka.stop, leavers))
        await hold_all(on_kafka, consumers[0])
    stopping.set()
    await tasks[0]
    await eventually(everything, "everything has come", REBALANCED_S)
    tasks[1].cancel()
    arrived: dict[str, list[str]] = defaultdict(list)
    known: set[str] = set()
    for record in got:
        if record.message.id in known:
            assert record.redelivered
            continue
        known.add(record.message.id)
        arrived[record.message.key].append(record.message.id)
    assert arrived == sent


async def test_a_reader_that_was_stopped_for_long_asks_first_whose_the_partitions_are(on_kafka: KafkaBackend) -> None:
    producer, consumer = await on_kafka.producer(), await on_kafka.consumer()
    await producer.publish([message(f"c{i}") for i in range(100)])
    await eventually(lambda: consumer.take(NORMAL, 10))
    consumer._readers[NORMAL]._alive_s -= 60
    assert consumer.take(NORMAL, 10) == []
    await asyncio.wait_for(consumer.wait([NORMAL]), 10)
    assert consumer.take(NORMAL, 10)


async def test_a_thread_that_fails_fails_who_waits(on_kafka: KafkaBackend) -> None:
    consumer = await on_kafka.consumer()
    waiting = asyncio.create_task(consumer.wait())
    await on_kafka.abandon(consumer)
    with pytest.raises(TypeError):
        await asyncio.wait_for(waiting, 10)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
async def test_copies_from_other_clusters_are_read_beside_our_own(kafka: Kafka, protocol: str) -> None:
    backend = KafkaBackend(kafka, kafka.prefix, partitions=2, protocol=protocol)
    copied, strange = f"us.{topic(backend)}", f"us.eu.{topic(backend)}"
    admin = kafka.admin
    for made in admin.create_topics([NewTopic(copied, 2), NewTopic(strange, 1)]).values():
        made.result(TIMEOUT_S)
    try:
        producer = await backend.producer()
        consumer = await backend.consumer(mirrored=True)
        await eventually(lambda: len(backend.partitions_of(consumer)) == 4)
        await producer.publish([message(f"c{i}") for i in range(20)])
        for number in range(10):
            await backend.produce_to(copied, number % 2, b"copied", b"d%d" % number, [])
        records = await take_all([consumer], 30, finish=False)
        assert Counter(r.message.payload == b"copied" for r in records) == {True: 10, False: 20}
        assert len({r.partition for r in records}) == 4, "each has a number of its own"
        assert (await consumer.lag())[NORMAL].messages == 30
        consumer.finish(records)

        async def empty() -> bool:
            return (await consumer.lag())[NORMAL].messages == 0

        await eventually(empty)
        await backend.close()
    finally:
        for deleted in admin.delete_topics([copied, strange]).values():
            deleted.result(TIMEOUT_S)


# Topics and records that go


async def test_records_that_retention_deleted_unread_are_no_backlog(
    on_kafka: KafkaBackend, caplog: pytest.LogCaptureFixture
) -> None:
    producer, first = await on_kafka.producer(), await on_kafka.consumer()
    sent = [message("c1") for _ in range(100)]
    await producer.publish(sent)
    await take_all([first], 100, finish=False)
    await eventually(lambda: first._readers[NORMAL]._committing == [])
    await on_kafka.stop(first)
    on_kafka.delete_before(60, "normal", on_kafka.layout.partition_of("c1"))
    assert (await on_kafka.lag()).messages == 40
    second = await on_kafka.consumer()
    records = await take_all([second], 40)
    assert [r.message.id for r in records] == [m.id for m in sent[60:]]
    assert "retention deleted unread records" in caplog.text


async def test_what_is_finished_behind_records_that_retention_deleted_is_not_read_again(
    on_kafka: KafkaBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """The note outlives the record that it was committed with."""
    producer, first = await on_kafka.producer(), await on_kafka.consumer()
    sent = [message("c1") for _ in range(100)]
    await producer.publish(sent)
    records = await take_all([first], 100, finish=False)
    first.finish(records[:10] + records[50:65] + records[70:])
    await on_kafka.stop(first)
    on_kafka.delete_before(60, "normal", on_kafka.layout.partition_of("c1"))
    assert (await on_kafka.lag()).messages == 5
    second = await on_kafka.consumer()
    fresh = message("c1")
    await producer.publish([fresh])
    again = await take_all([second], 6)
    assert [r.message.id for r in again] == [m.id for m in [*sent[65:70], fresh]]
    assert [r.redelivered for r in again] == [True] * 5 + [False]
    await eventually(on_kafka.empty)
    [told] = [record for record in caplog.records if record.getMessage() == "retention deleted unread records"]
    assert told.fields["count"] == 40  # type: ignore[attr-defined]


async def test_records_that_retention_deletes_under_a_reader_that_lags_are_told_of_and_the_rest_is_read(
    on_kafka: KafkaBackend, caplog: pytest.LogCaptureFixture
) -> None:
    consumer, partition, count, deleted = await on_kafka.consumer(batch=50), 0, 40_000, 35_000
    await on_kafka.produce_many(NORMAL, partition, [(b"x" * 1000, b"c1", [])] * count)
    first = await take_all([consumer], 10)
    await eventually(lambda: consumer._readers[NORMAL]._poller._is_paused, "it has read ahead what it may")
    on_kafka.delete_before(deleted, "normal", partition)
    got = [record.position for record in first]
    while got[-1] != count - 1:
        await asyncio.wait_for(consumer.wait([NORMAL]), TIMEOUT_S)
        records = consumer.take(NORMAL, 50)
        got += [record.position for record in records]
        consumer.finish(records)
    assert got[-(count - deleted) :] == list(range(deleted, count)) and got == sorted(set(got))
    await eventually(on_kafka.empty)
    [told] = [record for record in caplog.records if record.getMessage() == "retention deleted unread records"]
    assert told.fields["count"] == count - len(got)  # type: ignore[attr-defined]


async def test_what_stands_behind_a_long_aborted_transaction_is_read(
    on_kafka: KafkaBackend, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = await on_kafka.consumer()
    await hold_all(on_kafka, consumer)
    sender = Producer({"bootstrap.servers": on_kafka.server.bootstrap, "transactional.id": on_kafka.layout.prefix})
    sender.init_transactions(TIMEOUT_S)
    sender.begin_transaction()
    for _ in range(3000):
        sender.produce(topic(on_kafka), b"never", b"c1", 0)
    sender.flush(TIMEOUT_S)
    sender.abort_transaction(TIMEOUT_S)
    await on_kafka.produce(NORMAL, 0, b"behind it", b"c1", [])
    await on_kafka.produce(NORMAL, 1, b"beside it", b"c2", [])
    records = await take_all([consumer], 2)
    assert {record.message.payload for record in records} == {b"behind it", b"beside it"}
    await eventually(on_kafka.empty)
    assert "retention deleted" not in caplog.text


async def test_a_topic_that_was_deleted_and_made_anew_is_read_from_its_beginning(on_own_kafka: KafkaBackend) -> None:
    backend = on_own_kafka
    producer, consumer = await backend.producer(), await backend.consumer()
    revoked: list[int] = []
    consumer.on_revoked(lambda priority, partition: revoked.append(partition))
    await producer.publish([message(f"c{i}") for i in range(100)])
    held = await take_all([consumer], 100, finish=False)
    consumer.finish(held[:50])
    delete_topic(backend)
    await eventually(lambda: topic(backend) not in backend.topics())
    make_topics(backend)
    sent = [message(f"c{i}") for i in range(20)]

    async def published() -> bool:
        rest = [m for m, error in zip(sent, await producer.publish(sent), strict=True) if error is not None]
        sent[:] = rest
        return not rest

    ids = {m.id for m in sent}
    await eventually(published, "the producer finds it again")
    records = await take_all([consumer], 20)
    assert {r.message.id for r in records} == ids
    assert not any(r.redelivered for r in records)
    consumer.finish(held)  # of another topic, by the same name
    await eventually(backend.empty)
    assert revoked


async def test_a_missing_topic_is_told_with_the_command_that_makes_it(on_kafka: KafkaBackend) -> None:
    delete_topic(on_kafka)
    await eventually(lambda: topic(on_kafka) not in on_kafka.topics())
    consumer = await on_kafka.consumer(topic_metadata_refresh_interval_ms="500")
    await eventually(lambda: "zpush topics create" in consumer.reason)
    assert not consumer.up and topic(on_kafka) in consumer.reason
    make_topics(on_kafka)
    await hold_all(on_kafka, consumer)
    await eventually(lambda: consumer.up)
    assert consumer.reason == ""


# The broker


async def test_a_broker_that_dies_under_load(on_own_kafka: KafkaBackend) -> None:
    backend = on_own_kafka
    broker: Broker = backend.server
    producer, consumer = await backend.producer(), await backend.consumer()
    taken: set[str] = set()
    got: list[Record] = []
    ended = asyncio.Event()

    async def send(sender: int) -> None:
        """What was under way when the broker went waits for its return."""
        while not ended.is_set():
            batch = [message(f"c{sender}-{i}") for i in range(10)]
            for one, error in zip(batch, await producer.publish(batch), strict=True):
                assert error is None or isinstance(error, QueueUnavailable)
                if error is None:
                    taken.add(one.id)
            await asyncio.sleep(0.01)

    async def refused() -> bool:
        [error] = await producer.publish([message("c1")])
        return isinstance(error, QueueUnavailable)

    async def read() -> None:
        while True:
            await consumer.wait()
            records = consumer.take(NORMAL, 100)
            got.extend(records)
            consumer.finish(records)

    reader = asyncio.create_task(read())
    senders = [asyncio.create_task(send(n)) for n in range(4)]
    for _ in range(2):
        before = len(got)
        await eventually(lambda before=before: len(got) > before + 200)
        broker.kill()
        await eventually(lambda: not producer.up and not consumer.up)
        assert producer.reason and consumer.reason
        await eventually(lambda: producer._sender.away)
        assert await refused(), "who comes when it has been away for a while is told at once"
        await asyncio.to_thread(broker.restart)
        await eventually(lambda: producer.up and consumer.up)
    before = len(taken)
    await eventually(lambda: len(taken) > before + 200)
    ended.set()
    await asyncio.gather(*senders)
    await eventually(lambda: taken <= {r.message.id for r in got}, "everything that was confirmed")
    await eventually(backend.empty)
    reader.cancel()
    unmarked = Counter(r.message.id for r in got if not r.redelivered)
    assert max(unmarked.values()) == 1, "a repeated record says so"
    written = Counter(dict(record.headers())["id"].decode() for record in read_all(broker.bootstrap, topic(backend)))
    assert max(written.values()) == 1, "an idempotent producer writes once"
    assert taken <= written.keys()


async def test_a_consumer_leaves_without_its_broker(on_own_kafka: KafkaBackend) -> None:
    backend = on_own_kafka
    producer, consumer = await backend.producer(), await backend.consumer()
    await producer.publish([message(f"c{i}") for i in range(20)])
    consumer.finish(await take_all([consumer], 20, finish=False))
    backend.server.kill()
    async with asyncio.timeout(20):
        await backend.stop(consumer)
