"""Dead letters read again and replayed, on every back end; the consumer buries them, as in test_contract.py."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from tests.kafka.fixtures import Kafka
from tests.queue.backends import Backend, StreamsBackend, message, take_all
from tests.queue.kafka_backend import KafkaBackend, read_all
from tests.support import eventually
from zpush.errors import MalformedMessage, QueueFull, QueueUnavailable, Unavailable
from zpush.protocol.message import Priority
from zpush.queue import kafka_scan, stream_dead_letters
from zpush.queue.base import DeadLetters
from zpush.queue.dead_letter import DeadLetter
from zpush.queue.entry import MAX_PAYLOAD_BYTES
from zpush.queue.kafka_topics import Topics
from zpush.queue.open import open_dead_letters

HIGH, NORMAL, LOW = Priority
BAD = {"key": b"c1", "payload": b"hello", "type": b"video", "id": b"m-bad", "more": b"\xff\x00"}
LARGEST_HEADER = (64 << 10) - 116  # beside the largest payload; the rest is for what every record has
OpenLetters = Callable[..., Awaitable[DeadLetters]]


@pytest.fixture
async def open_letters() -> AsyncIterator[OpenLetters]:
    """open_letters(backend, …): as one run of the command has them; they end with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(backend: Backend, **queue: Any) -> DeadLetters:
            url: str = backend.server.url  # type: ignore[attr-defined] # every server has one
            letters = open_dead_letters(dataclasses.replace(backend.queue(), **queue), url)
            await letters.start()
            stack.push_async_callback(letters.stop)
            return letters

        yield open_one


async def bury(backend: Backend, *records: dict[str, bytes], priority: Priority = NORMAL) -> None:
    """They are among the dead letters, and nowhere else."""
    consumer = await backend.consumer()
    before = len(backend.dead_letters)
    for fields in records:
        await backend.inject(priority, backend.layout.partition_of("c1"), fields)

    def buried() -> bool:
        assert consumer.take(priority, 100) == []
        return len(backend.dead_letters) == before + len(records)

    await eventually(buried, "they are buried", 60.0)
    await eventually(lambda: backend.empty(priority), "and finished", 60.0)
    await backend.stop(consumer)


async def all_of(letters: DeadLetters) -> list[DeadLetter]:
    return [each async for batch in letters.read() for each in batch]


async def replay_all(letters: DeadLetters) -> list[Exception | None]:
    return [error async for batch in letters.read() for error in await letters.replay(batch)]


async def test_a_letter_tells_what_is_known(backend: Backend, open_letters: OpenLetters) -> None:
    await bury(backend, BAD, {"key": b"\xff", "payload": b"x"}, priority=HIGH)
    await bury(backend, {"payload": b"to nobody"}, priority=LOW)
    letters = await open_letters(backend)
    assert await letters.count() == 3
    first, second, third = await all_of(letters)
    assert (first.key, first.id, first.value) == (b"c1", b"m-bad", b"hello")
    assert first.reason == first.problem == "type must be text, binary or json, not 'video'"
    assert first.time_ms > 1_600_000_000_000
    assert [each.priority for each in (first, second, third)] == [HIGH, HIGH, LOW]
    assert first.source.startswith(f"{backend.layout.prefix}.high") and first.place
    assert (second.key, second.id) == (b"\xff", b"")
    assert "client is empty" in third.problem
    assert await letters.find(first.name) == first


async def test_what_can_be_read_by_now_is_delivered_and_replayed_once(
    backend: Backend, open_letters: OpenLetters
) -> None:
    """The reason is gone: as if an older zpush had buried it. Nothing is lost of it, nor changed."""
    readable = {"key": b"c1", "payload": b"hello", "type": b"text", "id": b"m-good", "expires": b"2000000000000"}
    await write_letter(backend, readable)
    letters = await open_letters(backend)
    (letter,) = await all_of(letters)
    assert (letter.reason, letter.problem) == ("of its time", "")
    assert await letters.replay([letter]) == [None]
    (record,) = await take_all([await backend.consumer()], 1)
    assert (record.message.id, record.message.key, record.message.payload) == ("m-good", "c1", b"hello")
    assert record.message.expires_ms == 2_000_000_000_000
    assert await all_of(letters) == [] and await letters.count() == 0
    for again in (letters, await open_letters(backend)):
        assert await all_of(again) == []
        assert await again.find(letter.name) is None


async def test_what_still_cannot_be_read_is_dead_again(backend: Backend, open_letters: OpenLetters) -> None:
    await bury(backend, BAD)
    letters = await open_letters(backend)
    (before,) = await all_of(letters)
    assert await replay_all(letters) == [None]
    buried = len(backend.dead_letters)
    consumer = await backend.consumer()

    def again() -> bool:
        return consumer.take(NORMAL, 10) == [] and len(backend.dead_letters) == buried + 1

    await eventually(again, "it is buried again")
    (after,) = await all_of(await open_letters(backend))
    assert after.name != before.name and after.place != before.place
    changing = {"name": "", "place": "", "time_ms": 0, "content": None}
    assert replaced(after, **changing) == replaced(before, **changing), "the same record"
    assert backend.name != "streams" or after.content == before.content, "with every field"


def replaced(letter: DeadLetter, **fields: Any) -> DeadLetter:
    return DeadLetter(**{name: fields.get(name, getattr(letter, name)) for name in letter.__struct_fields__})


async def test_a_run_ends_though_its_letters_come_back(backend: Backend, open_letters: OpenLetters) -> None:
    """A consumer buries them again while they are replayed."""
    await bury(backend, *(BAD for _ in range(30)))
    consumer = await backend.consumer()
    letters = await open_letters(backend)
    replayed = 0
    async for batch in letters.read():
        for letter in batch:
            assert await letters.replay([letter]) == [None]
            replayed += 1
            assert replayed <= 30
            consumer.take(NORMAL, 100)
    assert replayed == 30

    async def back() -> bool:
        consumer.take(NORMAL, 100)
        return await (await open_letters(backend)).count() == 30

    await eventually(back, "all are back", 60.0)


async def test_single_letters_are_replayed_and_the_rest_later(backend: Backend, open_letters: OpenLetters) -> None:
    for number in range(8):
        await write_letter(backend, {"key": b"c1", "payload": b"%d" % number})
    names = [letter.name for letter in await all_of(await open_letters(backend))]
    for number in (6, 2, 3):
        letters = await open_letters(backend)
        letter = await letters.find(names[number])
        assert letter is not None and letter.value == b"%d" % number
        assert await letters.replay([letter]) == [None]
    letters = await open_letters(backend)
    assert await letters.find(names[2]) is None
    assert [letter.value for letter in await all_of(letters)] == [b"0", b"1", b"4", b"5", b"7"]
    assert await letters.count() == 5
    assert await replay_all(letters) == [None] * 5
    records = await take_all([await backend.consumer()], 8)
    assert [record.message.payload for record in records] == [b"6", b"2", b"3", b"0", b"1", b"4", b"5", b"7"]
    assert await all_of(await open_letters(backend)) == []


async def test_what_is_written_meanwhile_is_for_the_next_run(
    backend: Backend, open_letters: OpenLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_scan, "BATCH", 2)
    monkeypatch.setattr(stream_dead_letters, "BATCH", 2)
    letters = await open_letters(backend)
    await write_letters(backend, [{"key": b"c1", "payload": b"%d" % number} for number in range(5)])
    found = []
    async for batch in letters.read():
        found += [letter.value for letter in batch]
        await write_letter(backend, {"key": b"c1", "payload": b"later"})
    assert found == [b"0", b"1", b"2", b"3", b"4"]
    assert [letter.value for letter in await all_of(letters)][:6] == [*found, b"later"]


@pytest.mark.parametrize("name", ["", "nonsense", "1", "-1", "a:b", "1:2:3", "0:٣", "0:" + "9" * 30, "1-" + "9" * 30])
async def test_what_is_no_name_is_told(backend: Backend, open_letters: OpenLetters, name: str) -> None:
    with pytest.raises(MalformedMessage, match="a dead letter is named like"):
        await (await open_letters(backend)).find(name)


async def test_a_name_of_nothing_finds_nothing(backend: Backend, open_letters: OpenLetters) -> None:
    await write_letter(backend, {"key": b"c1", "payload": b"x"})
    letters = await open_letters(backend)
    for name in ("0:7", "99:0", "0:999999999999") if backend.name != "streams" else ("1-1", "1700000000000-0"):
        assert await letters.find(name) is None


async def test_many_letters_are_read_and_replayed_batch_by_batch(
    backend: Backend, open_letters: OpenLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_scan, "BATCH", 100)
    monkeypatch.setattr(stream_dead_letters, "BATCH", 100)
    await write_letters(backend, [{"key": b"c1", "payload": b"%d" % number} for number in range(1050)])
    letters = await open_letters(backend)
    assert await letters.count() == 1050
    sizes = []
    async for batch in letters.read():
        sizes.append(len(batch))
        assert await letters.replay(batch) == [None] * len(batch)
    assert sum(sizes) == 1050 and max(sizes) == 100
    records = await take_all([await backend.consumer()], 1050)
    assert [int(record.message.payload) for record in records] == list(range(1050))


async def test_large_letters_come_in_small_batches(backend: Backend, open_letters: OpenLetters) -> None:
    size = 1_000_000
    await write_letters(backend, [{"key": b"c1", "payload": b"x" * size, "type": b"video"} for _ in range(40)])
    batches = [[len(each.value) for each in batch] async for batch in (await open_letters(backend)).read()]
    assert [each for batch in batches for each in batch] == [size] * 40
    assert max(map(sum, batches)) <= (8 << 20) + 10 * size


async def test_a_letter_as_large_as_a_message_may_be_is_replayed(backend: Backend, open_letters: OpenLetters) -> None:
    await bury(backend, {"key": b"c1", "payload": b"x" * MAX_PAYLOAD_BYTES, "type": b"video"})
    assert await replay_all(await open_letters(backend)) == [None]


async def test_the_largest_record_that_a_topic_takes_is_kept_whole(on_kafka: KafkaBackend) -> None:
    """Beside it a letter has room for what zpush tells of it."""
    value = b"x" * MAX_PAYLOAD_BYTES
    record = {"key": b"c1", "payload": value, "type": b"video", "more": os.urandom(LARGEST_HEADER)}
    await bury(on_kafka, record)
    (letter,) = await asyncio.to_thread(read_all, on_kafka.server.bootstrap, f"{on_kafka.layout.prefix}.dead")
    assert letter.value() == value and dict(letter.headers())["more"] == record["more"]


async def test_letters_under_way_are_bounded_in_bytes_too(on_kafka: KafkaBackend) -> None:
    """Their topic is gone: few large ones wait for it, and once it is there all are written."""
    dead = f"{on_kafka.layout.prefix}.dead"
    admin = AdminClient({"bootstrap.servers": on_kafka.server.bootstrap})
    admin.delete_topics([dead])[dead].result(30)
    soon = {"topic_metadata_propagation_max_ms": "200", "topic_metadata_refresh_interval_ms": "300"}
    consumer, count = await on_kafka.consumer(**soon), 80
    await on_kafka.produce_many(NORMAL, 0, [(b"\xff" * (1 << 20), b"c1", [])] * count)
    letters = consumer._readers[NORMAL]._dead
    await eventually(lambda: (consumer.take(NORMAL, 500), letters.full)[1], "no more letters at once", 60.0)
    assert len(letters._letters) < count // 2
    topics = Topics(on_kafka.queue(), on_kafka.server.url, 30.0)
    topics.create(topics.missing())
    await eventually(lambda: (consumer.take(NORMAL, 500), len(on_kafka.dead_letters) == count)[1], "all", 60.0)
    await eventually(on_kafka.empty)


HOSTILE: dict[str, list[tuple[str, bytes]]] = {
    "nothing of a letter": [("key", b"c1"), ("payload", b"x")],
    "a field of a letter too few": [("reason", b"r"), ("key", b"c1"), ("payload", b"x")],
    "from somebody else's": [("SOURCE", b"payments"), ("key", b"c1"), ("payload", b"x")],
    "from another prefix's": [("SOURCE", b"PREFIXx.high.0"), ("key", b"c1"), ("payload", b"x")],
    "from another prefix's topic": [("SOURCE", b"xPREFIX.normal"), ("key", b"c1"), ("payload", b"x")],
    "from a copy, which nobody reads": [("SOURCE", b"us.PREFIX.normal"), ("key", b"c1"), ("payload", b"x")],
    "from a priority that is none": [("SOURCE", b"PREFIX.urgent"), ("key", b"c1"), ("payload", b"x")],
    "from a stream of no number": [("SOURCE", b"PREFIX.normal.x"), ("key", b"c1"), ("payload", b"x")],
    "from the dead letters": [("SOURCE", b"PREFIX.dead"), ("key", b"c1"), ("payload", b"x")],
    "from the receipts": [("SOURCE", b"PREFIX.receipts"), ("key", b"c1"), ("payload", b"x")],
    "from a name that is no text": [("SOURCE", b"\xff\xfe"), ("key", b"c1"), ("payload", b"x")],
    "from a pattern": [("SOURCE", b"PREFIX.(high)?"), ("key", b"c1"), ("payload", b"x")],
}


async def test_a_letter_that_is_not_ours_is_shown_and_goes_nowhere(backend: Backend, open_letters: OpenLetters) -> None:
    """Anybody may write there, and a replay has the processors' rights."""
    for fields in HOSTILE.values():
        await backend.write("dead", as_letter(backend, fields))
    await write_letter(backend, {"key": b"c1", "payload": b"a real one"})
    letters = await open_letters(backend)
    every = await all_of(letters)
    assert [each.priority for each in every] == [None] * len(HOSTILE) + [NORMAL]
    errors = await letters.replay(every)
    for each, error in zip(every[:-1], errors[:-1], strict=True):
        assert isinstance(error, MalformedMessage) and str(error) == each.obstacle != ""
    assert errors[-1] is None
    assert len(await all_of(await open_letters(backend))) == len(HOSTILE), "they lie where they were"
    (record,) = await take_all([await backend.consumer()], 1)
    assert record.message.payload == b"a real one"


async def test_times_and_bytes_of_a_hostile_letter_are_bounded(backend: Backend, open_letters: OpenLetters) -> None:
    for time in (b"soon", b"-5", b"9" * 40, "٣".encode(), b""):
        await backend.write("dead", own_fields(backend, "x", time=time) + [("payload", b"\xff" * 100)])
    assert [each.time_ms for each in await all_of(await open_letters(backend))] == [0] * 5


async def test_there_may_be_none(backend: Backend, open_letters: OpenLetters) -> None:
    letters = await open_letters(backend)
    assert await letters.count() == 0 and await all_of(letters) == []


async def test_a_server_that_is_away_is_told(own_backend: Backend, open_letters: OpenLetters) -> None:
    own_backend.server.kill()
    with pytest.raises(QueueUnavailable, match=r"[Cc]onnect|No such file"):
        await open_letters(own_backend)


async def test_what_a_full_stream_does_not_take_stays(streams: StreamsBackend, open_letters: OpenLetters) -> None:
    producer = await streams.producer(max_messages=20)
    assert await producer.publish([message("c1") for _ in range(4)]) == [None] * 4
    for number in range(3):
        await write_letter(streams, {"key": b"c1", "payload": b"%d" % number})
    letters = await open_letters(streams, max_messages=20)  # five a stream
    assert [type(error) for error in await replay_all(letters)] == [type(None), QueueFull, QueueFull]
    assert [each.value for each in await all_of(letters)] == [b"1", b"2"]


async def test_a_letter_whose_record_was_published_perhaps_stays(
    streams: StreamsBackend, open_letters: OpenLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection broke before the answer came, and is there again."""
    await write_letter(streams, {"key": b"c1", "payload": b"x"})
    letters = await open_letters(streams)
    (letter,) = await all_of(letters)

    async def lost(script: Any, calls: Sequence[Any]) -> list[Exception]:
        return [Unavailable("the connection was lost") for _ in calls]

    with monkeypatch.context() as patched:
        patched.setattr(letters._store, "eval_many", lost)  # type: ignore[attr-defined]
        (error,) = await letters.replay([letter])
    assert isinstance(error, QueueUnavailable)
    assert [each.name for each in await all_of(letters)] == [letter.name]


async def test_a_stream_that_is_read_no_more_is_not_its_place(
    streams: StreamsBackend, open_letters: OpenLetters
) -> None:
    """There were more partitions once."""
    fields = [("reason", b"r"), ("stream", b"zpush.normal.77"), ("entry", b"1-1"), ("time", b"1")]
    await streams.write("dead", [*fields, ("key", b"c1"), ("payload", b"x")])
    assert await replay_all(await open_letters(streams)) == [None]
    (record,) = await take_all([await streams.consumer()], 1)
    assert record.partition == streams.layout.partition_of("c1")


async def test_an_entry_of_too_many_fields_stays(streams: StreamsBackend, open_letters: OpenLetters) -> None:
    """Lua has room for some 8000 arguments."""
    many = [(f"f{number}", b"") for number in range(5000)]
    await streams.write("dead", [*own_fields(streams, "r"), *many])
    await write_letter(streams, {"key": b"c1", "payload": b"behind it"})
    one, two = await replay_all(await open_letters(streams))
    assert one is not None and not isinstance(one, QueueUnavailable)
    assert two is None


async def test_a_letter_that_only_tells_where_the_record_was_stays(
    on_kafka: KafkaBackend, open_letters: OpenLetters
) -> None:
    await on_kafka.produce_to(f"{on_kafka.layout.prefix}.dead", 0, None, None, own_fields(on_kafka, "too large"))
    letters = await open_letters(on_kafka)
    (error,) = await replay_all(letters)
    assert isinstance(error, MalformedMessage) and "too large to be kept" in str(error)
    assert len(await all_of(letters)) == 1


async def test_a_copied_record_goes_back_to_the_copy(kafka: Kafka, open_letters: OpenLetters) -> None:
    """Each region replays what its own processors could not read."""
    backend = KafkaBackend(kafka, kafka.prefix)
    copies = f"us.{kafka.prefix}.normal"
    admin = kafka.admin
    admin.create_topics([NewTopic(copies, 2)])[copies].result(30)
    try:
        await backend.write("dead", [*own_fields(backend, "r", source=copies), ("key", b"c1"), ("payload", b"x")])
        mirrored = dataclasses.replace(backend.queue().kafka, mirrored=True)
        assert await replay_all(await open_letters(backend, kafka=mirrored)) == [None]
        (record,) = await asyncio.to_thread(read_all, kafka.bootstrap, copies)
        assert (record.key(), record.value()) == (b"c1", b"x")
    finally:
        admin.delete_topics([copies])[copies].result(30)


async def test_what_retention_deletes_meanwhile_is_passed_over(
    on_kafka: KafkaBackend, open_letters: OpenLetters
) -> None:
    await write_letters(on_kafka, [{"key": b"c1", "payload": b"%d" % number} for number in range(6)])
    letters = await open_letters(on_kafka)
    on_kafka.delete_before(3, "dead", 0)
    assert [each.value for each in await all_of(letters)] == [b"3", b"4", b"5"]


async def test_what_was_replayed_is_remembered_beyond_what_retention_deletes(
    on_kafka: KafkaBackend, open_letters: OpenLetters
) -> None:
    await write_letters(on_kafka, [{"key": b"c1", "payload": b"%d" % number} for number in range(6)])
    letters = await open_letters(on_kafka)
    letter = await letters.find("0:4")
    assert letter is not None and await letters.replay([letter]) == [None]
    on_kafka.delete_before(3, "dead", 0)
    letters = await open_letters(on_kafka)
    assert await letters.find("0:1") is None
    assert await letters.count() == 2
    assert [each.value for each in await all_of(letters)] == [b"3", b"5"]


def own_fields(
    backend: Backend, reason: str, source: str = "", time: bytes = b"1700000000000"
) -> list[tuple[str, bytes]]:
    """What zpush writes in front, with the source's name where none is given."""
    partition = backend.layout.partition_of("c1")
    if backend.name == "streams":
        stream = source or backend.layout.stream(NORMAL, partition)
        return [("reason", reason.encode()), ("stream", stream.encode()), ("entry", b"1-1"), ("time", time)]
    topic = source or f"{backend.layout.prefix}.normal"
    place = [("topic", topic.encode()), ("partition", b"%d" % partition), ("offset", b"7")]
    return [("reason", reason.encode()), *place, ("time", time)]


def as_letter(backend: Backend, fields: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """SOURCE stands for all fields of a letter, from there."""
    name, source = fields[0]
    if name != "SOURCE":
        return list(fields)
    own = own_fields(backend, "r")
    source = source.replace(b"PREFIX", backend.layout.prefix.encode())
    return [(n, source if n in ("stream", "topic") else value) for n, value in own] + list(fields[1:])


async def write_letter(backend: Backend, fields: dict[str, bytes]) -> None:
    await backend.write("dead", [*own_fields(backend, "of its time"), *fields.items()])


async def write_letters(backend: Backend, many: Sequence[dict[str, bytes]]) -> None:
    await backend.write("dead", *([*own_fields(backend, "of its time"), *fields.items()] for fields in many))
