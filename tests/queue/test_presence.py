"""Presence events on every back end: what is written lies there in order, keyed by client, whatever the server does."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.queue.backends import Backend, StreamsBackend
from tests.queue.kafka_backend import KafkaBackend, read_all
from tests.support import eventually
from zpush.errors import QueueUnavailable
from zpush.queue.base import PresenceWriter
from zpush.queue.open import open_presence_writer, open_topics
from zpush.queue.presence import CONNECTED, DISCONNECTED, PresenceEvent, encode

PATIENCE_S = 60.0


def event(client: str, epoch: int = 5, what: str = CONNECTED, **fields: Any) -> PresenceEvent:
    return PresenceEvent(what, client, "k3v9x0q2ab", "eu", epoch, 1_700_000_000_000, **fields)


class Desk:
    """A writer's back end, and what lies there."""

    def __init__(self, backend: Backend, stack: contextlib.AsyncExitStack) -> None:
        self.backend = backend
        self.url: str = backend.server.url  # type: ignore[attr-defined] # every server has one
        self.queue = dataclasses.replace(backend.queue(), presence=True)
        self._stack = stack
        topics = open_topics(self.queue, self.url, 30.0)
        if topics is not None:
            topics.create(topics.missing())

    async def writer(self, **queue: Any) -> PresenceWriter:
        writer = open_presence_writer(dataclasses.replace(self.queue, **queue), self.url)
        await writer.start()
        self._stack.push_async_callback(writer.stop)
        return writer

    async def read(self) -> list[tuple[str, dict[str, Any]]]:
        """(key, event) each; in order per client."""
        if isinstance(self.backend, StreamsBackend):
            entries = await self.backend.redis.xrange("zpush.presence")
            return [(fields[b"key"].decode(), json.loads(fields[b"payload"])) for _, fields in entries]
        assert isinstance(self.backend, KafkaBackend)
        topic = f"{self.queue.prefix}.presence"
        records = await asyncio.to_thread(read_all, self.backend.server.bootstrap, topic)
        return [(record.key().decode(), json.loads(record.value())) for record in records]


@pytest.fixture
async def stack() -> AsyncIterator[contextlib.AsyncExitStack]:
    async with contextlib.AsyncExitStack() as it:
        yield it


def test_an_event_is_json_without_what_is_empty() -> None:
    assert json.loads(encode(event("c1", user="ann"))) == {
        "event": "connected",
        "client": "c1",
        "node": "k3v9x0q2ab",
        "region": "eu",
        "epoch": 5,
        "time_ms": 1_700_000_000_000,
        "user": "ann",
    }
    gone = json.loads(encode(event('"клиент"', what=DISCONNECTED, code=4002)))
    assert (gone["event"], gone["client"], gone["code"]) == ("disconnected", '"клиент"', 4002)
    assert "user" not in gone


async def test_events_lie_there_in_order_by_client(backend: Backend, stack: contextlib.AsyncExitStack) -> None:
    desk = Desk(backend, stack)
    writer = await desk.writer()
    clients = [f"c{number}" for number in range(50)]
    for epoch in range(1, 21):  # more than a batch of them
        await writer.write([event(client, epoch) for client in clients])
    found = await desk.read()
    assert len(found) == 20 * len(clients)
    for client in clients:
        assert [each["epoch"] for key, each in found if key == client] == list(range(1, 21))
    assert all(key == each["client"] for key, each in found)


async def test_a_server_that_is_away_is_said_and_takes_them_later(
    own_backend: Backend, stack: contextlib.AsyncExitStack
) -> None:
    desk = Desk(own_backend, stack)
    writer = await desk.writer()
    await writer.write([event("before")])
    own_backend.server.kill()
    waits = asyncio.ensure_future(writer.write([event("meanwhile")]))  # Kafka's waits for the brokers, up to 30 s
    if isinstance(own_backend, StreamsBackend):
        with pytest.raises(QueueUnavailable):
            await waits
    own_backend.server.restart()

    async def written() -> bool:
        try:
            await waits if not waits.done() else await writer.write([event("meanwhile")])
        except QueueUnavailable:
            return False
        return True

    await eventually(written, "it is written", PATIENCE_S)
    assert {key for key, _ in await desk.read()} == {"before", "meanwhile"}


async def test_a_missing_topic_is_named(on_kafka: KafkaBackend, stack: contextlib.AsyncExitStack) -> None:
    queue = dataclasses.replace(on_kafka.queue(), presence=True)
    writer = open_presence_writer(queue, on_kafka.server.url)
    await writer.start()
    stack.push_async_callback(writer.stop)
    with pytest.raises(QueueUnavailable, match=r"\.presence is missing: `zpush topics create` makes it"):
        await writer.write([event("c1"), event("c2")])


async def test_streams_forget_the_oldest(streams: StreamsBackend, stack: contextlib.AsyncExitStack) -> None:
    desk = Desk(streams, stack)
    writer = await desk.writer(max_presence=1000)
    for begin in range(0, 4000, 500):
        await writer.write([event(f"c{number}") for number in range(begin, begin + 500)])
    keys = [key for key, _ in await desk.read()]
    assert 1000 <= len(keys) < 2000 and keys[-1] == "c3999"
