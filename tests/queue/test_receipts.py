"""Receipts, on every back end: what is written is read, of one message and nothing else, whatever lies beside it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.queue.backends import Backend, StreamsBackend
from tests.queue.kafka_backend import KafkaBackend
from tests.support import eventually, halt
from zpush.errors import QueueUnavailable
from zpush.protocol.message import new_id
from zpush.queue.base import ReceiptReader, ReceiptWriter
from zpush.queue.open import open_receipt_reader, open_receipt_writer, open_topics
from zpush.queue.receipt import MAX_RECEIPT_BYTES, Receipt, encode
from zpush.queue.stream_receipts import BATCH, PAGE_ENTRIES

BEGIN_MS = 1_700_000_000_000
PATIENCE_S = 60.0


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def receipt(id: str = "m1", client: str = "c1", **fields: Any) -> Receipt:
    given = {"priority": "normal", "region": "local", "queued_ms": BEGIN_MS, "settled_ms": BEGIN_MS + 7, **fields}
    return Receipt(id=id, client=client, **{"outcome": "delivered", **given})


class Desk:
    """Writers and readers on one back end; they end with the test."""

    def __init__(self, backend: Backend, stack: contextlib.AsyncExitStack, **queue: Any) -> None:
        """queue: settings of the receipts' own."""
        self.backend = backend
        self.url: str = backend.server.url  # type: ignore[attr-defined] # every server has one
        self.queue = dataclasses.replace(backend.queue(), receipts=True, **queue)
        self._stack = stack
        self.done: list[bool] = []

    def make_topics(self) -> None:
        topics = open_topics(self.queue, self.url, 30.0)
        if topics is not None:
            topics.create(topics.missing())

    async def writer(self, **queue: Any) -> ReceiptWriter:
        return await self._started(open_receipt_writer(dataclasses.replace(self.queue, **queue), self.url))

    async def reader(self) -> ReceiptReader:
        return await self._started(open_receipt_reader(self.queue, self.url))

    async def _started(self, opened: Any) -> Any:
        await opened.start()
        self._stack.push_async_callback(opened.stop)
        return opened

    async def write(self, writer: ReceiptWriter, *receipts: Receipt) -> None:
        """And all of them are written."""
        before = len(self.done)
        for each in receipts:
            writer.write(each, self.done.append)
        await eventually(lambda: len(self.done) == before + len(receipts), "an answer for each", PATIENCE_S)
        assert all(self.done)

    async def read(self, id: str, since_ms: int = BEGIN_MS) -> list[Receipt]:
        return [each async for each in (await self.reader()).read(id, since_ms, follow=False)]


MakeDesk = Callable[[Backend], Awaitable[Desk]]


@pytest.fixture
async def stack() -> AsyncIterator[contextlib.AsyncExitStack]:
    async with contextlib.AsyncExitStack() as it:
        yield it


@pytest.fixture
async def desk(backend: Backend, stack: contextlib.AsyncExitStack) -> Desk:
    made = Desk(backend, stack)
    made.make_topics()
    return made


async def test_receipts_of_a_message_are_read_as_they_were_written(desk: Desk) -> None:
    mine = [
        receipt(client="c1", node="ab12"),
        receipt(client="клиент", outcome="offline", redelivered=True),
        receipt(client="", user="u1", outcome="offline"),
        receipt(client="", outcome="", counts={"delivered": 3, "dropped": 1}),
    ]
    writer = await desk.writer()
    await desk.write(writer, *mine, receipt("m2"), receipt("other"))
    assert await desk.read("m1") == mine
    assert [each.id for each in await desk.read("m2")] == ["m2"]
    assert await desk.read("m") == []


async def test_each_id_is_found_among_many(backend: Backend, stack: contextlib.AsyncExitStack) -> None:
    """More than a batch and a page; ids of every length and of many letters, as the partitioner sees them."""
    desk = Desk(backend, stack, partitions=7)
    desk.make_topics()
    ids = [new_id() for _ in range(150)] + [f"{'é' * (n % 7)}{n}" for n in range(150)]
    writer = await desk.writer()
    many = [receipt(each, f"c{n}") for n in range(10) for each in ids]
    assert len(many) > max(BATCH, PAGE_ENTRIES)
    await desk.write(writer, *many)
    for each in ids[::20]:
        assert [r.client for r in await desk.read(each)] == [f"c{n}" for n in range(10)]


async def test_reading_begins_with_a_time(desk: Desk) -> None:
    writer = await desk.writer()
    await desk.write(writer, receipt(client="early"))
    between_ms = now_ms() + 1
    await eventually(lambda: now_ms() > between_ms)
    await desk.write(writer, receipt(client="late"))
    assert [each.client for each in await desk.read("m1", between_ms)] == ["late"]
    assert await desk.read("m1", now_ms() + 60_000) == []


async def test_who_follows_gets_what_comes_later(desk: Desk) -> None:
    writer, reader = await desk.writer(), await desk.reader()
    await desk.write(writer, receipt(client="before"))
    got: list[str] = []

    async def follow() -> None:
        async for each in reader.read("m1", BEGIN_MS, follow=True):
            got.append(each.client)

    following = asyncio.create_task(follow())
    await eventually(lambda: got == ["before"])
    for name in ("one", "two"):
        await desk.write(writer, receipt("m2", name), receipt(client=name))
    await eventually(lambda: got == ["before", "one", "two"])
    following.cancel()
    await asyncio.wait([following])


HOSTILE: dict[str, bytes] = {
    "no JSON": b"{",
    "another JSON": b'["m1"]',
    "not UTF-8": b'{"id":"m1","client":"\xff"}',
    "of another id": encode(receipt("m2")),
    "without times": b'{"id":"m1","priority":"high","region":"r"}',
    "a time that is none": encode(receipt()).replace(b'"settled_ms":17', b'"settled_ms":-17'),
    "a time that no calendar has": encode(receipt()).replace(b'"settled_ms":17', b'"settled_ms":99999917'),
    "brackets": b"[" * 4000,
    "a client of 1000 characters": encode(receipt(client="c" * 1000)),
    "an outcome that is a list": encode(receipt()).replace(b'"delivered"', b'["delivered"]'),
    "larger than a receipt": encode(receipt()) + b" " * MAX_RECEIPT_BYTES,
    "nothing": b"",
}


async def test_what_is_no_receipt_is_passed_over(desk: Desk) -> None:
    writer = await desk.writer()
    await desk.write(writer, receipt(client="first"))
    for content in HOSTILE.values():
        await desk.backend.write("receipts", [("key", b"m1"), ("payload", content)])
    await desk.backend.write("receipts", [("key", b"m1"), ("strange", b"m1")])
    await desk.backend.write("receipts", [("key", b"m1"), ("payload", b"x" * 60_000)])
    await desk.write(writer, receipt(client="last"))
    assert [each.client for each in await desk.read("m1")] == ["first", "last"]


async def test_a_server_that_comes_back_gets_what_was_written_meanwhile(
    own_backend: Backend, stack: contextlib.AsyncExitStack
) -> None:
    desk = Desk(own_backend, stack)
    desk.make_topics()
    writer = await desk.writer()
    await desk.write(writer, receipt(client="before"))
    own_backend.server.kill()
    for number in range(20):
        writer.write(receipt(client=f"c{number}"), desk.done.append)
    own_backend.server.restart()
    await eventually(lambda: len(desk.done) == 21, "they are written", PATIENCE_S)
    assert all(desk.done)
    clients = [each.client for each in await desk.read("m1")]
    assert list(dict.fromkeys(clients)) == ["before", *(f"c{number}" for number in range(20))]


async def test_what_kafkas_own_queue_has_no_room_for_waits_its_turn(
    on_kafka: KafkaBackend, stack: contextlib.AsyncExitStack
) -> None:
    desk = Desk(on_kafka, stack)
    desk.make_topics()
    writer = await desk.writer(kafka=on_kafka.queue(queue_buffering_max_messages="3").kafka)
    await desk.write(writer, *(receipt(client=f"c{number}") for number in range(50)))
    assert [each.client for each in await desk.read("m1")] == [f"c{number}" for number in range(50)]


async def test_what_is_not_written_by_the_end_gets_no_answer(
    own_backend: Backend, stack: contextlib.AsyncExitStack
) -> None:
    """So that its record is not finished, and somebody else's processor writes it again."""
    desk = Desk(own_backend, stack)
    desk.make_topics()
    writer = open_receipt_writer(desk.queue, desk.url)
    await writer.start()
    own_backend.server.kill()
    writer.write(receipt(), desk.done.append)
    await writer.stop()
    assert desk.done == []


async def test_a_stop_does_not_wait_for_ever(streams: StreamsBackend, stack: contextlib.AsyncExitStack) -> None:
    """The server hangs; what was sent to it gets no answer."""
    desk = Desk(streams, stack)
    writer = open_receipt_writer(desk.queue, desk.url)
    await writer.start()
    halt(streams.valkey.pid)
    try:
        writer.write(receipt(), desk.done.append)
        await writer.stop()
    finally:
        os.kill(streams.valkey.pid, signal.SIGCONT)
    assert desk.done == []


async def test_a_reader_says_that_the_server_is_away(own_backend: Backend, stack: contextlib.AsyncExitStack) -> None:
    own_backend.server.kill()
    with pytest.raises(QueueUnavailable, match=r"[Cc]onnect|No such file"):
        await Desk(own_backend, stack).reader()


async def test_kafka_without_the_topic_loses_receipts_and_says_so(
    on_kafka: Any, stack: contextlib.AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(on_kafka, stack)
    writer = await desk.writer()
    writer.write(receipt(), desk.done.append)
    await eventually(lambda: desk.done == [False], "given up", PATIENCE_S)
    assert "receipts are lost" in caplog.text
    with pytest.raises(QueueUnavailable, match=r"\.receipts is missing: `zpush topics create` makes it"):
        await desk.reader()


async def test_a_stream_that_is_none_loses_receipts_and_says_so(
    streams: StreamsBackend, stack: contextlib.AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(streams, stack)
    writer = await desk.writer()
    await streams.redis.set("zpush.receipts", "a string")
    writer.write(receipt(), desk.done.append)
    await eventually(lambda: desk.done == [False])
    assert "receipts are lost" in caplog.text
    await streams.redis.delete("zpush.receipts")
    desk.done.clear()
    await desk.write(writer, receipt())


async def test_streams_forget_the_oldest(streams: StreamsBackend, stack: contextlib.AsyncExitStack) -> None:
    desk = Desk(streams, stack)
    writer = await desk.writer(max_receipts=1000)
    await desk.write(writer, *(receipt(f"m{number}") for number in range(4000)))
    assert 1000 <= await streams.redis.xlen("zpush.receipts") < 2000
    assert await desk.read("m3999") and not await desk.read("m0")
