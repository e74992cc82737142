"""The producer on Kafka. kafka_consumer.py tells how it all fits together, kafka_sender.py how records travel.

Rules. Messages go to librdkafka in the order of the calls, a slice at a time, so that a batch of thousands holds the
loop for a millisecond. While no broker answers a push is refused at once. What was handed over waits for the brokers'
word. Taken means: written by all replicas that are in sync.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from zpush._fast.reports import ReportOf, Reports, Singles, Turn
from zpush.errors import MalformedMessage, QueueFull, QueueUnavailable
from zpush.protocol.message import Message, Priority
from zpush.queue import kafka_names
from zpush.queue.base import Lag
from zpush.queue.entry import MAX_PAYLOAD_BYTES
from zpush.queue.kafka_config import client_config
from zpush.queue.kafka_lag import LagReader
from zpush.queue.kafka_record import headers_of
from zpush.queue.kafka_sender import Sender

if TYPE_CHECKING:
    from zpush.queue.open import QueueSettings

Results = list[Exception | None]

SLICE = 200  # messages that are handed over in one turn of the loop


class _Call(Reports):
    """One publish() under way: a result per message, and a future for when all are known."""

    __slots__ = ("_produce", "_sent", "done", "handed_over", "messages", "results")

    def __init__(self, _: Turn, messages: Sequence[Message], done: asyncio.Future[Results], sender: Sender) -> None:
        self.messages = messages
        self.results: Results = [None] * len(messages)
        self.handed_over = 0
        self.done = done
        self._produce = sender.produce
        self._sent = 0

    def failed(self, index: int, error: Exception) -> None:
        self.results[index] = error

    def complete(self) -> None:
        if not self.done.done():
            self.done.set_result(self.results)

    def hand_over(self, topics: Sequence[str], room: int) -> int:
        """Up to so many messages. How many it were."""
        produce = self._produce
        begin, end = self.handed_over, min(len(self.messages), self.handed_over + room)
        for index in range(begin, end):
            message = self.messages[index]
            try:
                if len(message.payload) > MAX_PAYLOAD_BYTES:
                    raise _too_large(message)
                topic, report = topics[message.priority], ReportOf(self, index)
                produce(topic, message.payload, message.key, headers_of(message), report)
                self._sent += 1
            except (QueueFull, QueueUnavailable, MalformedMessage) as e:
                self.results[index] = e
        self.handed_over = end
        if end == len(self.messages) and self.expect(self._sent):
            self.complete()
        return end - begin


class KafkaProducer:
    """queue.max_messages counts for Streams only: how long Kafka keeps messages is the topic's own setting."""

    def __init__(self, queue: QueueSettings, url: str) -> None:
        """ConfigError where the URL or a setting is wrong."""
        self._topics = [kafka_names.topic(queue.prefix, priority) for priority in Priority]
        self._sender = Sender("zpush-producer", client_config(url, queue.kafka))
        self._lag = LagReader(queue, url)
        self._calls: deque[_Call] = deque()  # not handed over yet

    @property
    def up(self) -> bool:
        return self._sender.up

    @property
    def reason(self) -> str:
        """Why it is not up; "" where it is."""
        return self._sender.reason

    async def start(self) -> None:
        await self._sender.start()

    async def stop(self) -> None:
        """Waits 5 s for what is under way; what is left then is QueueUnavailable."""
        while self._calls:
            await asyncio.sleep(0)
        await self._sender.stop()
        await self._lag.close()

    async def lag(self) -> dict[Priority, Lag]:
        if self._sender.away:
            raise QueueUnavailable(f"Kafka is away: {self._sender.reason}")
        return await self._lag.read()

    def publish(self, messages: Sequence[Message]) -> asyncio.Future[Results]:
        """Per message: None, QueueFull, QueueUnavailable, or MalformedMessage (too large)."""
        done: asyncio.Future[Results] = self._sender.loop.create_future()
        if self._sender.away:
            done.set_result([QueueUnavailable(f"Kafka is away: {self._sender.reason}") for _ in messages])
            return done
        self._calls.append(_Call(self._sender.turn, messages, done, self._sender))
        if len(self._calls) == 1:
            self._hand_over()
        return done

    def singles(self, message_of: Callable[[dict[str, Any]], Message | None]) -> Singles:
        """The short way of messages that come alone, in turn with all others."""
        return Singles(self._sender, self._calls, self._topics, message_of, headers_of, MAX_PAYLOAD_BYTES)

    def _hand_over(self) -> None:
        """One slice; whatever is left has its turn later, before what comes meanwhile."""
        room = SLICE
        while self._calls and room:
            call = self._calls[0]
            room -= call.hand_over(self._topics, room)
            if call.handed_over == len(call.messages):
                self._calls.popleft()
        if self._calls:
            self._sender.loop.call_soon(self._hand_over)


def _too_large(message: Message) -> MalformedMessage:
    text = f"the payload has {len(message.payload)} bytes; at most {MAX_PAYLOAD_BYTES} are allowed"
    return MalformedMessage(text, "data")
