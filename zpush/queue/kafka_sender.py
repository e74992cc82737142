"""One librdkafka producer and the thread that polls it: records go in on the loop, reports come out on the loop.

Rules. send() only puts a record into librdkafka's queue, which is bounded; what became of it is told once, on the loop,
and all that one poll() brought is told with one wake-up. Who has many records uses produce(), counts the reports in the
polling thread and has the loop told once (kafka_producer.py). The producer is idempotent and waits for all replicas, so
a client's records keep their order and are written once, whatever was sent again on the way. librdkafka rides out a
broker that changes or restarts; what is not confirmed within delivery.timeout.ms is an error. Some errors are fatal to
a producer, such as a missing right to write: then it is made anew until that is mended.

The partitioner is the one of Java's client (murmur2). librdkafka's own default, which other senders in C, Python, Go
and .NET have, puts a key elsewhere: such a sender sets `partitioner=murmur2_random`, or order holds only among its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as KafkaRecord

from zpush.errors import MalformedMessage, QueueFull, QueueUnavailable
from zpush.queue import kafka_names
from zpush.queue.kafka_config import opened
from zpush.queue.kafka_link import Link
from zpush.queue.kafka_record import Headers

PENDING_MESSAGES = 100_000
PENDING_BYTES = 64 << 20
POLL_S = 0.1
START_S = 2.0
FLUSH_S = 5.0
AGAIN_S = 1.0  # after a fatal error
WELL_AFTER_S = 3.0  # without another one
NEWS_A_TURN = 2000  # about a millisecond
DEFAULTS: Mapping[str, Any] = {
    "queue.buffering.max.messages": PENDING_MESSAGES,
    "queue.buffering.max.kbytes": PENDING_BYTES >> 10,
    "linger.ms": 5,
    "compression.type": "zstd",  # against lz4: half a microsecond more a message, two fifths fewer bytes
    "message.max.bytes": kafka_names.RECORD_BYTES,
    "delivery.timeout.ms": 30_000,
    "topic.metadata.propagation.max.ms": 5_000,  # a topic that is not there is missing after this
    "topic.metadata.refresh.interval.ms": 10_000,  # and found within this once it is made
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 1_000,
}
MUSTS: Mapping[str, Any] = {"enable.idempotence": True, "acks": "all", "partitioner": "murmur2_random"}

_FULL = f"{PENDING_MESSAGES} messages or {PENDING_BYTES >> 20} MiB wait for Kafka already"

Settle = Callable[[int, Exception | None], None]
OnDelivery = Callable[[KafkaError | None, KafkaRecord], None]


class Sender:
    """Belongs to the loop that starts it."""

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        """config: what client_config gives. name: for the log."""
        self._link = Link(name, self._on_verdict)
        self._config = {**DEFAULTS, **config, **MUSTS, **self._link.callbacks()}
        self._news: deque[Callable[[], None]] = deque()  # what the loop is to be told
        self._waking = False  # the loop is told already
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name=name, daemon=True)
        self._verdict: asyncio.Event
        self.loop: asyncio.AbstractEventLoop
        self._producer: Producer

    @property
    def up(self) -> bool:
        return self._link.up

    @property
    def reason(self) -> str:
        """Why it is not up; "" where it is."""
        return self._link.reason

    @property
    def away(self) -> bool:
        """Not just for a moment: what is sent now would only wait."""
        return self._link.away

    def open(self) -> None:
        """It connects by itself. ConfigError where librdkafka does not take its settings."""
        self.loop = asyncio.get_running_loop()
        self._verdict = asyncio.Event()
        self._producer = opened(Producer, self._config)
        self._thread.start()

    async def start(self) -> None:
        """Opens it, and returns when it is connected or has failed to."""
        self.open()
        try:
            async with asyncio.timeout(START_S):
                await self._verdict.wait()
        except TimeoutError:
            return  # slow to answer: it goes on by itself

    async def stop(self) -> None:
        """Waits 5 s for what is under way; what is left then is QueueUnavailable."""
        if self._thread.ident is None:
            return  # never opened
        self._stopping.set()
        await asyncio.to_thread(self._finish)
        while self._news:
            self._hear()

    def send(
        self, topic: str, value: bytes | None, key: bytes | str | None, headers: Headers, settle: Settle, index: int
    ) -> None:
        """settle(index, error or None) is called later. Raises QueueFull, MalformedMessage, QueueUnavailable."""
        self.produce(topic, value, key, headers, partial(self._report, settle, index))

    def produce(
        self, topic: str, value: bytes | None, key: bytes | str | None, headers: Headers, on_delivery: OnDelivery
    ) -> None:
        """The same, but on_delivery(error or None, record) is called in the polling thread."""
        try:
            self._producer.produce(topic, value, key, headers=headers, on_delivery=on_delivery)
        except BufferError:
            raise QueueFull(_FULL) from None
        except KafkaException as e:
            raise error_of(e.args[0], topic) from None

    def tell(self, what: Callable[[], None]) -> None:
        """In the polling thread, from on_delivery: what() is called on the loop."""
        self._news.append(what)

    # In the thread

    def _poll(self) -> None:
        failed_s = -inf
        while not self._stopping.is_set():
            try:
                self._producer.poll(POLL_S)
            except KafkaException as e:
                failed_s = time.monotonic()
                self._link.trouble(e.args[0].str())
                self._begin_anew()
            self._wake()
            if self._link.troubled and time.monotonic() - failed_s > WELL_AFTER_S:
                self._link.well()

    def _begin_anew(self) -> None:
        """What the old producer had is given up."""
        self._give_up(self._producer)
        if not self._stopping.wait(AGAIN_S):
            self._producer = opened(Producer, self._config)

    def _give_up(self, producer: Producer) -> None:
        with contextlib.suppress(KafkaException):  # a fatal error once more
            producer.purge()
            producer.flush(FLUSH_S)

    def _wake(self) -> None:
        if self._news and not self._waking:
            self._waking = True
            self._call(self._hear)

    def _report(self, settle: Settle, index: int, error: KafkaError | None, record: KafkaRecord) -> None:
        self.tell(partial(settle, index, None if error is None else error_of(error, record.topic() or "")))

    def _on_verdict(self) -> None:
        self._call(self._verdict.set)

    def _call(self, what: Callable[[], None]) -> None:
        try:
            self.loop.call_soon_threadsafe(what)
        except RuntimeError:  # the loop is closed: nobody waits for anything any more
            self._stopping.set()

    def _finish(self) -> None:
        self._thread.join()
        with contextlib.suppress(KafkaException):
            if not self._producer.flush(FLUSH_S):
                return
        self._give_up(self._producer)

    # On the loop

    def _hear(self) -> None:
        self._waking = False
        for _ in range(min(len(self._news), NEWS_A_TURN)):
            self._news.popleft()()
        if self._news and not self._stopping.is_set():
            self._waking = True
            self.loop.call_soon(self._hear)


_REFUSED = frozenset(
    (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError.INVALID_MSG)
)
_MISSING = frozenset((KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART))
_PURGED = frozenset((KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT))


def error_of(error: KafkaError, topic: str) -> Exception:
    """A report's error in the queue's words."""
    code = error.code()
    if code in _REFUSED:
        return MalformedMessage(f"Kafka does not take the record: {error.str()} (max.message.bytes)", "data")
    if code in _MISSING:
        return QueueUnavailable(f"the topic {topic} is missing: `zpush topics create` makes it")
    if code in _PURGED:
        return QueueUnavailable("given up before Kafka confirmed it")
    return QueueUnavailable(f"Kafka did not confirm it: {error.str()}")
