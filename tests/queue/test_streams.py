"""What is particular to Redis Streams: the lease, its fences, the group behind it, a server that dies."""

from __future__ import annotations

import asyncio
import math

import pytest

from tests.queue.backends import StreamsBackend, message, take_all
from tests.support import eventually, halt, turns
from zpush.config.settings import Queue
from zpush.errors import ConfigError, QueueUnavailable
from zpush.protocol.message import Priority
from zpush.queue.open import open_consumer, open_producer
from zpush.queue.partition import Partition
from zpush.queue.stream_consumer import FINISH_ENTRIES, StreamConsumer
from zpush.queue.streams import SLICE
from zpush.queue.tenure import ROUNDS_PER_TTL
from zpush.queue.wake import BLOCK_MS

NORMAL = Priority.NORMAL
SLOW_S = 0.8 * BLOCK_MS / 1000  # so long only where a blocked read was waited for


async def pause(consumer: StreamConsumer) -> list[Partition]:
    """No more renewals; and no caution by the clock, so that only the server stands in its way."""
    consumer._tenures.stop()
    partitions = consumer._tenures.partitions()
    for partition in partitions:
        partition.valid_until_s = math.inf
    return partitions


async def test_a_paused_reader_can_neither_read_nor_finish_after_its_lease(streams: StreamsBackend) -> None:
    producer, first = await streams.producer(), await streams.consumer()
    revoked: list[tuple[Priority, int]] = []
    first.on_revoked(lambda priority, partition: revoked.append((priority, partition)))
    await producer.publish([message(f"c{i}") for i in range(40)])
    taken = await take_all([first], 40, finish=False)
    await pause(first)
    second = await streams.consumer()
    again = await take_all([second], 40, finish=False)
    assert {r.message.id for r in again} == {r.message.id for r in taken}
    first.finish(taken)
    held = {r.partition for r in taken}
    await eventually(lambda: {n for p, n in revoked if p is NORMAL} >= held, "the server refused every finish")
    assert (await streams.lag()).messages == 40, "nothing was finished by the one without the lease"
    await producer.publish([message(f"c{i}") for i in range(40)])
    rest = await take_all([second], 40)
    assert len(rest) == 40 and first.take(NORMAL, 100) == []
    second.finish(again)
    await eventually(streams.empty)


async def test_a_paused_reader_that_wakes_up_reads_nothing(streams: StreamsBackend) -> None:
    producer, first = await streams.producer(), await streams.consumer()
    await eventually(lambda: len(streams.partitions_of(first)) == 4)
    await pause(first)
    second = await streams.consumer()
    await eventually(lambda: len(streams.partitions_of(second)) == 4, "taken over")
    await producer.publish([message(f"c{i}") for i in range(40)])  # wakes both
    await eventually(lambda: not streams.partitions_of(first) or first._tenures.partitions()[0].buffer)
    assert first.take(NORMAL, 100) == []
    await eventually(lambda: not streams.partitions_of(first), "the server refused every read")
    assert len(await take_all([second], 40)) == 40


async def test_a_reader_stops_handing_out_when_its_lease_may_be_over(streams: StreamsBackend) -> None:
    producer, consumer = await streams.producer(), await streams.consumer()
    await producer.publish([message(f"c{i}") for i in range(40)])
    await consumer.wait()
    consumer._tenures.stop()  # no more renewals
    for partition in consumer._tenures.partitions():
        partition.valid_until_s = 0.0
    assert consumer.take(NORMAL, 100) == []


async def test_a_lease_that_was_renewed_is_over_by_the_readers_own_clock(streams: StreamsBackend) -> None:
    consumer = await streams.consumer()
    await eventually(lambda: len(streams.partitions_of(consumer)) == 4)
    held = consumer._tenures.held[NORMAL][0]
    claimed_until_s = held.valid_until_s
    await eventually(lambda: held.valid_until_s > claimed_until_s, "it is renewed")
    streams.valkey.kill()
    await eventually(lambda: not streams.partitions_of(consumer), "nobody else says so")


async def test_nothing_more_is_taken_of_a_stream_that_is_given_up(streams: StreamsBackend) -> None:
    producer, first = await streams.producer(), await streams.consumer(sure=True)
    await producer.publish([message(f"c{i}") for i in range(200)])
    await eventually(lambda: streams.partitions_ahead(first) == 4)
    one_of_each = [record for _ in range(4) for record in first.take(NORMAL, 1)]
    assert len({record.partition for record in one_of_each}) == 4
    await streams.consumer(sure=True)
    held = first._tenures.held[NORMAL]
    await eventually(lambda: any(partition.leaving for partition in held.values()))
    kept = {number for number, partition in held.items() if not partition.leaving}
    assert {record.partition for record in first.take(NORMAL, 200)} == kept and len(kept) == 2


async def test_a_lost_lease_is_told_and_read_again_as_redelivered(streams: StreamsBackend) -> None:
    producer, consumer = await streams.producer(), await streams.consumer()
    revoked: list[tuple[Priority, int]] = []
    consumer.on_revoked(lambda priority, partition: revoked.append((priority, partition)))
    await producer.publish([message("c1")])
    (record,) = await take_all([consumer], 1, finish=False)
    await streams.redis.delete(f"{{{streams.layout.stream(NORMAL, record.partition)}}}:reader")
    await eventually(lambda: (NORMAL, record.partition) in revoked)
    consumer.finish([record])  # of the tenure that is over: has no effect
    (again,) = await take_all([consumer], 1)
    assert again.redelivered and again.message.id == record.message.id
    await eventually(streams.empty)


def lease_of(partition: Partition) -> str:
    return f"{{{partition.stream}}}:reader"


async def test_a_lease_that_is_anothers_by_now_is_not_renewed(streams: StreamsBackend) -> None:
    """Nothing is read or finished that would tell."""
    producer, consumer = await streams.producer(), await streams.consumer()
    revoked: list[tuple[Priority, int]] = []
    consumer.on_revoked(lambda priority, partition: revoked.append((priority, partition)))
    await producer.publish([message("c1")])
    await consumer.wait([NORMAL])
    held = consumer._tenures.held[NORMAL][streams.layout.partition_of("c1")]
    await eventually(lambda: held.idle)
    held.reading = True
    await streams.redis.set(lease_of(held), "another.1", px=60_000)
    await eventually(lambda: (NORMAL, held.number) in revoked, "the next round")
    assert consumer.take(NORMAL, 10) == [], "it was read ahead"


async def test_who_has_lost_a_lease_gives_nothing_up(streams: StreamsBackend) -> None:
    producer, consumer = await streams.producer(), await streams.consumer()
    await producer.publish([message("c1")])
    await consumer.wait([NORMAL])
    [held] = [partition for partition in await pause(consumer) if partition.buffer]
    await streams.redis.set(lease_of(held), "another.1", px=60_000)
    await streams.stop(consumer)
    assert await streams.redis.get(lease_of(held)) == b"another.1"
    assert (await streams.redis.xpending(held.stream, "zpush"))["pending"] == 1, "what is pending is the other one's"


async def test_a_deleted_stream_is_begun_anew(streams: StreamsBackend) -> None:
    producer, consumer = await streams.producer(), await streams.consumer()
    await eventually(lambda: len(streams.partitions_of(consumer)) == 4)
    await streams.redis.flushall()
    await producer.publish([message(f"c{i}") for i in range(20)])
    assert len(await take_all([consumer], 20)) == 20


async def test_what_is_finished_leaves_nothing_behind(streams: StreamsBackend) -> None:
    producer, consumer = await streams.producer(), await streams.consumer()
    await producer.publish([message(f"c{i}") for i in range(500)])
    await take_all([consumer], 500)
    await eventually(streams.empty)
    for partition in range(4):
        stream = streams.layout.stream(NORMAL, partition)
        assert (await streams.redis.xpending(stream, "zpush"))["pending"] == 0
        assert await streams.redis.xlen(stream) == 0


async def test_what_is_finished_as_the_server_dies_is_forgotten_when_it_is_back(streams: StreamsBackend) -> None:
    producer, consumer = await streams.producer(), await streams.consumer(lease_ttl_s=60)
    await producer.publish([message("c1") for _ in range(20)])
    records = await take_all([consumer], 20, finish=False)
    halt(streams.valkey.pid)
    consumer.finish(records)
    await eventually(lambda: any(partition.finishing for partition in consumer._tenures.partitions()), "it is sent")
    streams.valkey.kill()
    await eventually(lambda: not producer.up and not consumer.up)
    streams.valkey.restart()
    await eventually(lambda: producer.up and consumer.up)
    await eventually(streams.empty)


async def test_who_leaves_takes_the_time_to_have_all_forgotten_that_is_finished(streams: StreamsBackend) -> None:
    """More than one call of the script takes."""
    producer, consumer = await streams.producer(), await streams.consumer(batch=2000, sure=True)
    count = 2 * FINISH_ENTRIES + 1
    await producer.publish([message("c1") for _ in range(count)])
    consumer.finish(await take_all([consumer], count, finish=False))
    await streams.stop(consumer)
    assert await streams.empty()


async def test_reading_ahead_is_bounded(streams: StreamsBackend) -> None:
    producer, consumer = await streams.producer(), await streams.consumer(batch=20)
    await producer.publish([message(f"c{i}") for i in range(1000)])
    await consumer.wait()
    records = await take_all([consumer], 400, finish=False)
    pending = [(await streams.redis.xpending(streams.layout.stream(NORMAL, n), "zpush"))["pending"] for n in range(4)]
    assert sum(pending) <= len(records) + 3 * 20
    consumer.finish(records)
    await take_all([consumer], 600)
    await eventually(streams.empty)


async def test_many_messages_are_taken_in_slices_and_in_order(
    streams: StreamsBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer, consumer = await streams.producer(), await streams.consumer()
    many = [message("c1", str(n)) for n in range(2000)]
    calls_in: set[int] = set()
    evaluate = producer._store.eval
    with turns() as had:
        monkeypatch.setattr(producer._store, "eval", lambda *call: calls_in.add(had()) or evaluate(*call))
        first = producer.publish(many)
        second = producer.publish([message("c1", "2000")])
        assert await first == [None] * 2000
        assert await second == [None]
    assert len(calls_in) >= 2000 // SLICE
    records = await take_all([consumer], 2001)
    assert [r.message.payload for r in records] == [b"%d" % n for n in range(2001)]


async def test_large_records_are_read_in_small_portions(streams: StreamsBackend) -> None:
    producer = await streams.producer()
    await producer.publish([message("c1", "x" * 200_000) for _ in range(150)])
    consumer = await streams.consumer()
    await consumer.wait()
    (partition,) = [p for p in consumer._tenures.partitions() if p.buffer]
    assert partition.buffered_bytes <= 18 * 1024 * 1024, "8 MiB, and one answer more: 1 MiB, or one step of 50 records"
    records = await take_all([consumer], 150)
    assert len(records) == 150 and partition.buffered_bytes == 0


async def test_a_reply_that_was_lost_is_read_again_and_is_no_redelivery(streams: StreamsBackend) -> None:
    producer, consumer = await streams.producer(), await streams.consumer(lease_ttl_s=60)
    await eventually(lambda: len(streams.partitions_of(consumer)) == 4)
    held = consumer._tenures.held[NORMAL][streams.layout.partition_of("c1")]
    held.reading = True  # nothing is read by the consumer itself for now
    await producer.publish([message("c1") for _ in range(10)])
    lost = await streams.redis.evalsha(
        consumer._read.sha, 1, held.stream, held.token, 6, 10_000, held.after
    )  # as if this answer never arrived
    assert len(lost[1]) == 6
    held.reading = False
    records = await take_all([consumer], 10)
    assert [r.redelivered for r in records] == [False] * 10


async def test_letters_that_cannot_be_written_are_written_later(
    streams: StreamsBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody has put something else where they belong. Until they are written their entries are not finished."""
    await streams.redis.set(streams.layout.dead, "a string")
    producer, consumer = await streams.producer(), await streams.consumer()
    entry = await streams.inject(NORMAL, streams.layout.partition_of("c1"), {"nonsense": b"1"})
    await producer.publish([message("c1", "behind it")])
    assert (await take_all([consumer], 1))[0].message.payload == b"behind it"
    await eventually(lambda: caplog.text.count("cannot write a dead letter") > 1, "it is tried again")
    assert (await streams.lag()).messages == 1 and streams.dead_letters == []
    await streams.redis.delete(streams.layout.dead)
    await eventually(streams.empty)
    assert [letter["entry"] for letter in await streams.dead()] == [entry]
    assert streams.dead_letters == [(NORMAL, False)]


async def test_an_idle_reader_is_woken_at_once_by_every_stream(streams: StreamsBackend) -> None:
    """Without the waker a message would wait for a round; a stream that just ended must not wait for BLOCK either."""
    producer, consumer = await streams.producer(), await streams.consumer(lease_ttl_s=60)
    await eventually(lambda: len(streams.partitions_of(consumer)) == 4)
    loop = asyncio.get_running_loop()
    slow = 0
    for i in range(60):
        begin_s = loop.time()
        await producer.publish([message(f"c{i}", priority=Priority(i % 3))])
        await asyncio.wait_for(consumer.wait(), 30)
        consumer.finish(consumer.take(Priority(i % 3), 10))
        slow += loop.time() - begin_s > SLOW_S
    assert slow <= 3  # a race with the newly blocked read costs one BLOCK


async def test_a_stream_that_was_just_drained_is_watched_at_once(streams: StreamsBackend) -> None:
    """The blocked read began without it, as there was a backlog; it is ended early."""
    producer, consumer = await streams.producer(), await streams.consumer(batch=20, lease_ttl_s=60)
    await eventually(lambda: len(streams.partitions_of(consumer)) == 4)
    loop = asyncio.get_running_loop()
    slow = 0
    for _ in range(8):
        await producer.publish([message("c1") for _ in range(200)])
        await take_all([consumer], 200)
        await eventually(lambda: all(p.idle for p in consumer._tenures.partitions()))
        begin_s = loop.time()
        await producer.publish([message("c1")])
        await take_all([consumer], 1)
        slow += loop.time() - begin_s > SLOW_S
    assert slow <= 2


async def test_valkey_is_killed_and_restarted_under_load(streams: StreamsBackend) -> None:
    producer, consumer = await streams.producer(), await streams.consumer(lease_ttl_s=6.0)
    taken: set[str] = set()
    refused: set[str] = set()
    got: list[tuple[str, bool]] = []
    over, ended = asyncio.Event(), asyncio.Event()

    async def send(sender: int) -> None:
        while not over.is_set():
            batch = [message(f"c{sender}-{i}") for i in range(10)]
            for one, error in zip(batch, await producer.publish(batch), strict=True):
                assert error is None or isinstance(error, QueueUnavailable)
                (taken if error is None else refused).add(one.id)
            await asyncio.sleep(0.01)

    async def read() -> None:
        while not ended.is_set():
            await consumer.wait()
            records = consumer.take(NORMAL, 100)
            got.extend((r.message.id, r.redelivered) for r in records)
            consumer.finish(records)

    reader = asyncio.create_task(read())
    senders = [asyncio.create_task(send(n)) for n in range(4)]
    for _ in range(2):
        before = len(got)
        await eventually(lambda before=before: len(got) > before + 200)
        streams.valkey.kill()
        await eventually(lambda: not producer.up)
        streams.valkey.restart()
        await eventually(lambda: producer.up and consumer.up)
    over.set()
    await asyncio.gather(*senders)
    await eventually(lambda: taken <= {i for i, _ in got}, "everything that was confirmed")
    await eventually(streams.empty)
    ended.set()
    reader.cancel()
    assert refused, "the outage was seen by senders"
    unmarked = [message_id for message_id, redelivered in got if not redelivered]
    assert len(unmarked) == len(set(unmarked)), "a repeated record says so"


async def test_what_was_given_up_is_claimed_within_the_lease(
    streams: StreamsBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And half of it, in the reader's own rounds: on a busy machine they take longer, and become no more."""
    first = await streams.consumer()
    await eventually(lambda: len(streams.partitions_of(first)) == 4)
    second = await streams.consumer()
    await eventually(lambda: len(streams.partitions_of(second)) == 2)
    take_turn, rounds = second._tenures._round, 0

    async def counted() -> bool:
        nonlocal rounds
        rounds += 1
        return await take_turn()

    monkeypatch.setattr(second._tenures, "_round", counted)
    await streams.abandon(first)
    await eventually(lambda: len(streams.partitions_of(second)) == 4)
    assert rounds <= 1.5 * ROUNDS_PER_TTL


@pytest.mark.parametrize("url", ["http://127.0.0.1", "redis+cluster://127.0.0.1"])
def test_other_urls_are_refused_with_a_reason(url: str) -> None:
    with pytest.raises(ConfigError, match="redis://"):
        open_producer(Queue(), url)
    with pytest.raises(ConfigError, match="redis://"):
        open_consumer(Queue(), url, list(Priority), 500, lambda priority, redelivered: None)


async def test_a_stream_that_is_no_stream_any_more_stops_no_other(streams: StreamsBackend) -> None:
    """One command waits for all of them, and fails as a whole."""
    producer, consumer = await streams.producer(), await streams.consumer()
    await eventually(lambda: streams.partitions_of(consumer) == set(range(streams.layout.partitions)))
    key = "a"
    other = next(c for c in "bcdefgh" if streams.layout.partition_of(c) != streams.layout.partition_of(key))
    broken = streams.layout.stream(Priority.NORMAL, streams.layout.partition_of(key))
    await streams.redis.delete(broken)
    await streams.redis.set(broken, "a string")
    for _ in range(3):
        await producer.publish([message(other)])
        assert (await take_all([consumer], 1))[0].message.key == other
    await streams.redis.delete(broken)
    await producer.publish([message(key)])
    assert (await take_all([consumer], 1))[0].message.key == key
