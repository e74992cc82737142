"""What zpush/queue/base.py promises, on every back end."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest
from msgspec import structs

from tests.queue.backends import Backend, message, take_all
from tests.support import eventually
from zpush._fast.record import Record
from zpush.errors import MalformedMessage, QueueFull, QueueUnavailable
from zpush.protocol.message import Kind, Message, Priority, Target
from zpush.queue.entry import MAX_PAYLOAD_BYTES


async def test_a_message_arrives_as_it_was_sent(backend: Backend) -> None:
    sent = [
        message("c1", "plain"),
        message("c2", "{}", kind=Kind.JSON, expires_ms=2_000_000_000_000),
        Message("m-bin", "c3", b"\x00\xff", kind=Kind.BINARY),
        message("u:1", "to a user", target=Target.USER),
        message("", "to all", target=Target.ALL),
        message("клиент", "text \u20ac"),
        message("c4", "to one connection", secure_token="its-token"),
    ]
    producer, consumer = await backend.producer(), await backend.consumer(sure=True)
    assert await producer.publish(sent) == [None] * len(sent)
    records = await take_all([consumer], len(sent))
    got = {r.message.id: r.message for r in records}
    for one in sent:
        arrived = got[one.id]
        assert structs.replace(arrived, queued_ms=one.queued_ms) == one
        assert arrived.queued_ms > 1_600_000_000_000
    assert not any(r.redelivered for r in records)
    await eventually(backend.empty, "what is finished is forgotten")


async def test_priorities_are_kept_apart(backend: Backend) -> None:
    producer, consumer = await backend.producer(), await backend.consumer()
    await producer.publish([message("c1", p.label, p) for p in Priority])
    for priority in Priority:
        (record,) = await take_all([consumer], 1, priority)
        assert record.message.payload.decode() == priority.label
        assert record.priority is priority


async def test_a_clients_messages_keep_their_order(backend: Backend) -> None:
    producer, consumer = await backend.producer(), await backend.consumer(batch=50)
    clients = [f"c{i}" for i in range(20)]
    sent = defaultdict(list)

    async def send(client: str) -> None:
        for size in (1, 7, 30):
            batch = [message(client) for _ in range(size)]
            sent[client] += [m.id for m in batch]
            await producer.publish(batch)

    await asyncio.gather(*(send(c) for c in clients))
    got = defaultdict(list)
    for record in await take_all([consumer], 38 * len(clients)):
        got[record.message.key].append(record.message.id)
    assert got == sent


async def test_take_has_a_limit_and_does_not_block(backend: Backend) -> None:
    producer, consumer = await backend.producer(), await backend.consumer()
    assert consumer.take(Priority.HIGH, 10) == []
    await producer.publish([message("c1") for _ in range(30)])
    await consumer.wait([Priority.NORMAL])
    assert 0 < len(consumer.take(Priority.NORMAL, 7)) <= 7
    assert consumer.take(Priority.NORMAL, 0) == []


async def test_wait_returns_when_something_comes_and_only_for_what_was_asked(backend: Backend) -> None:
    producer, consumer = await backend.producer(), await backend.consumer()
    high = asyncio.create_task(consumer.wait([Priority.HIGH]))
    await producer.publish([message("c1", priority=Priority.LOW)])
    await asyncio.wait_for(consumer.wait(), 30)
    assert not high.done()
    await producer.publish([message("c1", priority=Priority.HIGH)])
    await asyncio.wait_for(high, 30)
    assert consumer.take(Priority.HIGH, 1)


@pytest.mark.parametrize("readers", [2, 3])
async def test_readers_share_the_partitions_and_each_has_one_reader(backend: Backend, readers: int) -> None:
    producer = await backend.producer()
    consumers = [await backend.consumer(sure=True) for _ in range(readers)]
    every = set(range(backend.layout.partitions))

    def shared() -> bool:
        parts = [backend.partitions_of(c) for c in consumers]
        return set().union(*parts) == every and sum(map(len, parts)) == len(every) and all(parts)

    await eventually(shared, "fair shares")
    sent = [message(f"c{i % 40}") for i in range(400)]
    await producer.publish(sent)
    records = await take_all(consumers, 400)
    assert sorted(r.message.id for r in records) == sorted(m.id for m in sent)
    assert not any(r.redelivered for r in records)


async def test_a_newcomer_gets_its_share_when_what_was_taken_is_finished(backend: Backend) -> None:
    producer, first = await backend.producer(), await backend.consumer(sure=True)
    sent = [message(f"c{i}") for i in range(200)]
    await producer.publish(sent)
    await eventually(lambda: backend.partitions_ahead(first) == backend.layout.partitions)
    held: list[Record] = []
    while len(held) < 180:  # something of every partition, but not all that was read ahead
        await asyncio.wait_for(first.wait([Priority.NORMAL]), 30)
        held += first.take(Priority.NORMAL, 10)
    assert {r.partition for r in held} == set(range(backend.layout.partitions))
    second = await backend.consumer(sure=True)
    await eventually(lambda: backend.gives_up(first), "the first one makes room")
    assert not backend.partitions_of(second), "but not with records in its hands"
    first.finish(held)
    half = backend.layout.partitions // 2
    await eventually(lambda: len(backend.partitions_of(second)) == half == len(backend.partitions_of(first)))
    rest = await take_all([first, second], len(sent) - len(held))
    assert {r.message.id for r in held + rest} == {m.id for m in sent}
    assert not any(r.redelivered for r in rest), "what was only read ahead is new to the next reader"


async def test_what_is_not_finished_holds_up_no_newcomer(backend: Backend) -> None:
    """A record of each partition never gets its outcome: it is redelivered, and nobody waits for it."""
    producer, first = await backend.producer(), await backend.consumer()
    revoked: list[tuple[Priority, int]] = []
    first.on_revoked(lambda *partition: revoked.append(partition))
    stuck: list[Record] = []
    for key in (f"c{i}" for i in range(100)):
        if backend.layout.partition_of(key) not in {r.partition for r in stuck}:
            await producer.publish([message(key)])
            stuck += await take_all([first], 1, finish=False)
    second = await backend.consumer()
    half = backend.layout.partitions // 2
    await eventually(lambda: len(backend.partitions_of(second)) == half)
    handed_over = backend.partitions_of(second)
    assert set(revoked) == {(Priority.NORMAL, number) for number in handed_over}
    again = await take_all([second], half)
    assert all(r.redelivered for r in again)
    assert {r.message.id for r in again} == {r.message.id for r in stuck if r.partition in handed_over}
    first.finish(stuck)  # too late for those: they are the second one's
    await eventually(backend.empty)


async def test_a_leaver_hands_over_at_once(backend: Backend) -> None:
    producer, first = await backend.producer(), await backend.consumer(lease_ttl_s=60)
    await producer.publish([message(f"c{i}") for i in range(100)])
    records = await take_all([first], 100, finish=False)
    first.finish(records[:60])
    await backend.stop(first)
    second = await backend.consumer()
    left = await take_all([second], 40)
    assert {r.message.id for r in left} == {r.message.id for r in records[60:]}
    assert all(r.redelivered for r in left)


async def test_the_work_of_a_killed_reader_is_taken_over_and_marked(backend: Backend) -> None:
    producer, first = await backend.producer(), await backend.consumer()
    await producer.publish([message(f"c{i}") for i in range(50)])
    taken = await take_all([first], 50, finish=False)
    first.finish(taken[:20])
    await eventually(lambda: _messages(backend, 30))
    await backend.abandon(first)
    second = await backend.consumer()
    again = await take_all([second], 30)
    assert {r.message.id for r in again} == {r.message.id for r in taken[20:]}
    assert all(r.redelivered for r in again)
    fresh = message("c1")
    await producer.publish([fresh])
    (record,) = await take_all([second], 1)
    assert (record.message.id, record.redelivered) == (fresh.id, False)
    await eventually(backend.empty)


async def test_only_what_is_unfinished_is_redelivered(backend: Backend) -> None:
    """Slow clients' messages stand in the middle of what is finished."""
    producer, first = await backend.producer(), await backend.consumer()
    await producer.publish([message(f"c{i}") for i in range(100)])
    taken = await take_all([first], 100, finish=False)
    slow = taken[::9]
    first.finish([r for r in taken if r not in slow])
    await eventually(lambda: _messages(backend, len(slow)))
    await backend.abandon(first)
    again = await take_all([await backend.consumer()], len(slow))
    assert {r.message.id for r in again} == {r.message.id for r in slow}
    assert all(r.redelivered for r in again)
    await eventually(backend.empty)


async def _messages(backend: Backend, count: int) -> bool:
    return (await backend.lag()).messages == count


async def test_a_full_queue_refuses_exactly_what_does_not_fit(backend: Backend) -> None:
    producer = await backend.producer(max_messages=10 * backend.layout.partitions)
    results = await producer.publish([message("one client") for _ in range(25)])
    assert [type(r) for r in results] == [type(None)] * 10 + [QueueFull] * 15
    consumer = await backend.consumer()
    assert len(await take_all([consumer], 10)) == 10, "nothing was trimmed"
    await eventually(backend.empty)
    assert await producer.publish([message("one client")]) == [None]


async def test_a_message_that_is_too_large_is_refused_and_spoils_nothing(backend: Backend) -> None:
    producer, consumer = await backend.producer(), await backend.consumer()
    big = Message("big", "c1", b"x" * (MAX_PAYLOAD_BYTES + 1))
    results = await producer.publish([message("c1", "before"), big, message("c1", "after")])
    assert results[0] is None and results[2] is None
    assert isinstance(results[1], MalformedMessage)
    records = await take_all([consumer], 2)
    assert [r.message.payload for r in records] == [b"before", b"after"]


GARBAGE: list[tuple[dict[str, bytes], str]] = [
    ({"nonsense": b"1"}, "has no "),
    ({"key": b"c1", "payload": b"\xff", "type": b"text"}, "UTF-8"),
    ({"key": b"c1", "payload": b"x", "type": b"picture"}, "type must be"),
    ({"key": b"c1", "payload": b"x", "expires": b"tomorrow"}, "expires must be"),
    ({"key": b"\xff", "payload": b"x"}, "not valid UTF-8"),
    ({"payload": b"x"}, "client is empty"),
    ({"key": b"c1", "payload": b"x", "target": b"planet"}, "target must be"),
    ({"key": b"c1", "payload": b"x", "target": b"all", "token": b"one"}, "a token is one connection's"),
]


async def test_what_cannot_be_read_goes_to_the_dead_letters_and_blocks_nothing(backend: Backend) -> None:
    producer, consumer = await backend.producer(), await backend.consumer()
    partition = backend.layout.partition_of("c1")
    entries = [await backend.inject(Priority.NORMAL, partition, fields) for fields, _ in GARBAGE]
    await producer.publish([message("c1", "behind it")])
    (record,) = await take_all([consumer], 1)
    assert record.message.payload == b"behind it"
    await eventually(backend.empty, "garbage is forgotten")
    dead = await backend.dead()
    assert [d["entry"] for d in dead] == entries
    for letter, (fields, reason) in zip(dead, GARBAGE, strict=True):
        assert reason in letter["reason"]
        assert letter["stream"] == backend.layout.stream(Priority.NORMAL, partition)
        assert int(letter["time"]) > 1_600_000_000_000
        assert fields.keys() <= letter.keys(), "the record itself is kept"
    assert backend.dead_letters == [(Priority.NORMAL, False)] * len(GARBAGE)


async def test_a_record_without_id_gets_one_that_lasts(backend: Backend) -> None:
    first = await backend.consumer()
    await backend.inject(Priority.NORMAL, 0, {"key": b"c1", "payload": b"x"})
    (record,) = await take_all([first], 1, finish=False)
    await backend.abandon(first)
    (again,) = await take_all([await backend.consumer()], 1)
    assert again.message.id == record.message.id != ""


async def test_lag_counts_what_is_not_finished_and_its_age(backend: Backend) -> None:
    producer, consumer = await backend.producer(), await backend.consumer()
    assert (await producer.lag())[Priority.HIGH].messages == 0
    await producer.publish([message(f"c{i}", priority=Priority.HIGH) for i in range(30)])
    records = await take_all([consumer], 30, Priority.HIGH, finish=False)

    async def older() -> bool:
        lag = (await consumer.lag())[Priority.HIGH]
        return lag.messages == 30 and 0.05 < lag.age_s < 10

    await eventually(older)
    consumer.finish(records)
    await eventually(lambda: backend.empty(Priority.HIGH))
    assert (await producer.lag())[Priority.HIGH].age_s == 0.0


async def test_finishing_twice_is_finishing_once(backend: Backend) -> None:
    producer, consumer = await backend.producer(), await backend.consumer()
    await producer.publish([message("c1"), message("c1")])
    one, two = await take_all([consumer], 2, finish=False)
    consumer.finish([one])
    consumer.finish([one])
    await eventually(lambda: _messages(backend, 1))
    consumer.finish([two])
    await eventually(backend.empty)


async def test_a_server_that_is_away_is_an_error_for_senders_and_a_pause_for_readers(own_backend: Backend) -> None:
    backend = own_backend
    backend.server.kill()
    producer, consumer = await backend.producer(), await backend.consumer()
    (error,) = await producer.publish([message("c1")])
    assert isinstance(error, QueueUnavailable)
    assert not producer.up and not consumer.up and producer.reason
    with pytest.raises(QueueUnavailable):
        await producer.lag()
    assert consumer.take(Priority.NORMAL, 10) == []
    backend.server.restart()
    await eventually(lambda: producer.up and consumer.up)
    assert await producer.publish([message("c1", "at last")]) == [None]
    (record,) = await take_all([consumer], 1)
    assert record.message.payload == b"at last"
