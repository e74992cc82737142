"""Dead letters on Kafka: records that cannot be read, kept in `<prefix>.dead` with the reason.

Rules. A letter is the record itself, key, value and headers, behind five headers of zpush's own: reason, topic,
partition, offset and time (Unix ms), as text. A record that the topic of dead letters does not take is told of by
these five alone: they say where it still lies. A letter is written before its record counts as finished; what fails is
tried again. Letters under way are bounded: who buries asks `full` first, so a flood of garbage costs no memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Message as KafkaRecord

from zpush.errors import MalformedMessage, ZpushError
from zpush.log import SparseLog
from zpush.queue import kafka_names
from zpush.queue.kafka_record import Headers
from zpush.queue.kafka_sender import Sender

UNDER_WAY = 1000
UNDER_WAY_BYTES = 32 << 20
MAX_REASON_CHARACTERS = 500
log = logging.getLogger("zpush.queue")


class _Letter:
    """A record and what to do once it is safe."""

    __slots__ = ("bare", "headers", "own", "record", "written")

    def __init__(self, record: KafkaRecord, headers: Headers, reason: str, written: Callable[[], None]) -> None:
        place = {"topic": record.topic(), "partition": record.partition(), "offset": record.offset()}
        own = {"reason": reason[:MAX_REASON_CHARACTERS], **place, "time": time.time_ns() // 1_000_000}
        self.own: Headers = [(name, str(value)) for name, value in own.items()]
        self.record = record
        self.headers = headers
        self.written = written
        self.bare = False  # without the record


class DeadLetters:
    """Connected at the first letter: mostly never."""

    def __init__(self, topic: str, config: Mapping[str, Any]) -> None:
        """config: what client_config gives."""
        self._topic = topic
        self._config = {"message.max.bytes": kafka_names.DEAD_RECORD_BYTES, **config}
        self._sparse = SparseLog(log)
        self._sender: Sender | None = None
        self._letters: dict[int, _Letter] = {}  # that are not written yet
        self._to_send: list[int] = []
        self._bytes = 0
        self._number = 0

    @property
    def full(self) -> bool:
        return len(self._letters) >= UNDER_WAY or self._bytes >= UNDER_WAY_BYTES

    def bury(self, record: KafkaRecord, headers: Headers, reason: str, written: Callable[[], None]) -> None:
        """written() is called once, when the letter is. It leaves with the next flush()."""
        self._number += 1
        self._letters[self._number] = _Letter(record, headers, reason, written)
        self._bytes += len(record)
        self._to_send.append(self._number)

    def flush(self) -> None:
        """Sends what is new or has failed. Called regularly."""
        if not self._to_send:
            return
        if self._sender is None:
            self._sender = Sender("zpush-dead-letters", self._config)
            self._sender.open()
        to_send, self._to_send = self._to_send, []
        for number in to_send:
            self._send(self._sender, number)

    async def stop(self) -> None:
        if self._sender is not None:
            await self._sender.stop()

    def _send(self, sender: Sender, number: int) -> None:
        letter = self._letters[number]
        value, key, headers = None, None, [*letter.own]
        if not letter.bare:
            value, key = letter.record.value(), letter.record.key()
            headers += letter.headers
        try:
            sender.send(self._topic, value, key, headers, self._settle, number)
        except ZpushError as e:
            self._settle(number, e)

    def _settle(self, number: int, error: Exception | None) -> None:
        letter = self._letters[number]
        if error is None:
            del self._letters[number]
            self._bytes -= len(letter.record)
            letter.written()
            return
        if isinstance(error, MalformedMessage):
            letter.bare = True
        self._sparse.warning("cannot write a dead letter", reason=str(error), topic=letter.record.topic())
        self._to_send.append(number)
