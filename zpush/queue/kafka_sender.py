"""One librdkafka producer: records go in on the loop, and reports come out on it.

Rules. send() only puts a record into librdkafka's queue, which is bounded; what became of it is told once. The loop
itself asks for reports, each millisecond while something is under way: confluent-kafka takes the interpreter lock anew
for each report, and a thread that asked would contend for it with the loop every time. A poll serves a thousand reports
at most, a millisecond or two; the rest has the next turn. Who has many records counts their reports in C
(kafka_producer.py).

The producer is idempotent and waits for all replicas, so a client's records keep their order and are written once,
whatever was sent again on the way. librdkafka rides out a broker that changes or restarts; what is not confirmed within
delivery.timeout.ms is an error. Some errors are fatal to a producer, such as a missing right to write: then it is made
anew until that is mended.

The partitioner is the one of Java's client (murmur2). librdkafka's own default, which other senders in C, Python, Go
and .NET have, puts a key elsewhere: such a sender sets `partitioner=murmur2_random`, or order holds only among its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as KafkaRecord

from zpush._fast.reports import Enough, Report, Turn
from zpush.errors import MalformedMessage, QueueFull, QueueUnavailable
from zpush.queue import kafka_names
from zpush.queue.kafka_config import opened
from zpush.queue.kafka_link import Link
from zpush.queue.kafka_record import Headers

PENDING_MESSAGES = 100_000
PENDING_BYTES = 64 << 20
POLL_S = 0.001  # while something is under way
REST_S = 0.1  # otherwise: errors and statistics come unasked
MAX_FIRST_POLL_S = 0.005  # after rest; nothing is confirmed before it has lingered
REPORTS_A_POLL = 1000
START_S = 2.0
FLUSH_S = 5.0
AGAIN_S = 1.0  # after a fatal error
WELL_AFTER_S = 3.0  # without another one
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

PARTITIONER, NOW = -1, 0  # produce()'s defaults; it takes names for its arguments, but 0.4 µs longer
_Index = TypeVar("_Index")
OnDelivery = Callable[[KafkaError | None, KafkaRecord], None]


class Sender:
    """Belongs to the loop that starts it."""

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        """config: what client_config gives. name: for the log."""
        self._verdict = asyncio.Event()
        self.link = Link(name, self._verdict.set)
        self._config = {**DEFAULTS, **config, **MUSTS, **self.link.callbacks()}
        self.turn = Turn(_error_of_report)
        self._next_poll: asyncio.TimerHandle | None = None  # None until it is opened
        self._rests = False  # nothing is under way
        self._linger_s = MAX_FIRST_POLL_S
        self._renewal: asyncio.Task[None] | None = None
        self._failed_s = -inf
        self._stopping = False
        self.loop: asyncio.AbstractEventLoop
        self._producer: Producer

    @property
    def up(self) -> bool:
        return self.link.up

    @property
    def reason(self) -> str:
        """Why it is not up; "" where it is."""
        return self.link.reason

    @property
    def away(self) -> bool:
        """Not just for a moment: what is sent now would only wait."""
        return self.link.away

    def open(self) -> None:
        """It connects by itself. ConfigError where librdkafka does not take its settings."""
        self.loop = asyncio.get_running_loop()
        self._producer = opened(Producer, self._config)
        self._linger_s = min(float(self._config["linger.ms"]) / 1000, MAX_FIRST_POLL_S)
        self._poll_in(POLL_S)

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
        if self._next_poll is None:
            return  # never opened
        self._stopping = True
        if self._renewal is not None:
            self._renewal.cancel()
        await self._reported()
        if len(self._producer):
            await self._give_up()
        self._next_poll.cancel()

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | str | None,
        headers: Headers,
        settle: Callable[[_Index, Exception | None], None],
        index: _Index,
    ) -> None:
        """settle(index, error or None) is called later. Raises QueueFull, MalformedMessage, QueueUnavailable."""
        self.produce(topic, value, key, headers, Report(self.turn, settle, index))

    def produce(
        self, topic: str, value: bytes | None, key: bytes | str | None, headers: Headers, report: OnDelivery
    ) -> None:
        """The same, but report(error or None, record) is called, and has to count itself in `turn`."""
        if self._stopping:
            raise QueueUnavailable("this sender has been stopped")
        try:
            self._producer.produce(topic, value, key, PARTITIONER, report, None, NOW, headers)
        except BufferError:
            raise QueueFull(_FULL) from None
        except KafkaException as e:
            raise error_of(e.args[0], topic) from None
        if self._rests:
            self._poll_in(self._linger_s)

    def _poll(self) -> None:
        pause_s = POLL_S
        self.turn.begin(REPORTS_A_POLL)
        try:
            self._producer.poll(0)
        except Enough:
            pause_s = 0
        except KafkaException as e:
            self._fatal(e.args[0].str())
        finally:
            self._poll_in(pause_s if len(self._producer) or not self._verdict.is_set() else REST_S)
        if self.link.troubled and time.monotonic() - self._failed_s > WELL_AFTER_S:
            self.link.well()

    def _poll_in(self, pause_s: float) -> None:
        if self._next_poll is not None:
            self._next_poll.cancel()
        self._rests = pause_s == REST_S
        self._next_poll = self.loop.call_later(pause_s, self._poll)

    def _fatal(self, reason: str) -> None:
        self._failed_s = time.monotonic()
        self.link.trouble(reason)
        if self._renewal is None and not self._stopping:
            self._renewal = self.loop.create_task(self._begin_anew())

    async def _begin_anew(self) -> None:
        try:
            await self._give_up()
            await asyncio.sleep(AGAIN_S)
            old, self._producer = [self._producer], opened(Producer, self._config)
            await asyncio.to_thread(old.clear)  # which waits for librdkafka's threads
        finally:
            self._renewal = None

    async def _give_up(self) -> None:
        """What is under way."""
        self._producer.purge(blocking=False)
        await self._reported()

    async def _reported(self) -> None:
        """Returns when nothing is under way any more, or after 5 s."""
        deadline_s = time.monotonic() + FLUSH_S
        while len(self._producer) and time.monotonic() < deadline_s:
            await asyncio.sleep(POLL_S)


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


def _error_of_report(error: KafkaError, record: KafkaRecord) -> Exception:
    return error_of(error, record.topic() or "")
