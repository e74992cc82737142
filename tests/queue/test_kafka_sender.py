"""Reports come on the loop, a bounded number in one turn, and whatever one of them does the others come as well."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import pytest

from tests.queue.kafka_backend import KafkaBackend
from tests.queue.test_kafka import topic
from tests.support import eventually
from zpush.config.settings import Kafka
from zpush.errors import QueueFull, QueueUnavailable
from zpush.queue import kafka_sender
from zpush.queue.kafka_config import client_config
from zpush.queue.kafka_sender import Sender

COUNT = 500  # of one partition, so that one answer of the broker confirms them all


class Turns:
    """Counts what happens in each turn of the loop."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.turn = 0
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._next)

    def _next(self) -> None:
        self.turn += 1
        if len(self.seen) < COUNT:
            self._loop.call_soon(self._next)

    def see(self, index: int, error: Exception | None) -> None:
        assert error is None and threading.current_thread() is threading.main_thread()
        self.seen.append(self.turn)


async def open_sender(on_kafka: KafkaBackend, **client: str) -> Sender:
    queue = on_kafka.queue(**client)
    sender = Sender("zpush-test", client_config(on_kafka.server.url, queue.kafka))
    await sender.start()
    return sender


async def test_a_turn_of_the_loop_serves_so_many_reports(
    on_kafka: KafkaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_sender, "REPORTS_A_POLL", 20)
    sender, turns = await open_sender(on_kafka), Turns()
    for index in range(COUNT):
        sender.send(topic(on_kafka), b"x", "c1", [], turns.see, index)
    await eventually(lambda: len(turns.seen) == COUNT)
    assert max(Counter(turns.seen).values()) == 20
    await sender.stop()
    assert "zpush-test" not in {thread.name for thread in threading.enumerate()}


async def test_at_the_end_all_are_told_however_many_there_are(
    on_kafka: KafkaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_sender, "REPORTS_A_POLL", 20)
    sender, turns = await open_sender(on_kafka, linger_ms="200"), Turns()
    for index in range(COUNT):
        sender.send(topic(on_kafka), b"x", "c1", [], turns.see, index)
    await sender.stop()
    assert len(turns.seen) == COUNT


@pytest.mark.parametrize(("size", "most"), [(1, 100_000), (1 << 20, 64)])
async def test_what_waits_for_a_broker_is_bounded(size: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By number, and by bytes with the keys. Nobody listens there."""
    sender = Sender("zpush-test", client_config("kafka://127.0.0.1:1", Kafka()))
    sender.open()
    told: list[Exception | None] = []
    for index in range(most):
        sender.send("topic", bytes(size), "c1", [], lambda _, error: told.append(error), index)
    with pytest.raises(QueueFull):
        sender.send("topic", bytes(size), "c1", [], lambda *_: None, most)
    monkeypatch.setattr(kafka_sender, "FLUSH_S", 1.0)
    await sender.stop()
    assert {type(error) for error in told} == {QueueUnavailable}


async def test_a_stopped_sender_takes_no_more(on_kafka: KafkaBackend) -> None:
    sender = await open_sender(on_kafka)
    await sender.stop()
    with pytest.raises(QueueUnavailable, match="stopped"):
        sender.send(topic(on_kafka), b"x", "c1", [], lambda *_: None, 0)


async def test_one_that_raises_keeps_no_other_from_being_told(on_kafka: KafkaBackend) -> None:
    told: list[int] = []
    raised: list[BaseException] = []

    def settle(index: int, error: Exception | None) -> None:
        told.append(index)
        if index == 3:
            raise LookupError("the test's own")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))
    sender = await open_sender(on_kafka)
    for index in range(10):
        sender.send(topic(on_kafka), b"x", "c1", [], settle, index)
    await eventually(lambda: len(told) == 10)
    assert [type(e) for e in raised] == [LookupError]
    await sender.stop()
