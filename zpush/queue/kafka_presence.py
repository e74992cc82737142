"""Presence events on Kafka: the topic `<prefix>.presence`, keyed by the client id, so one partition has all of one.

Rules. librdkafka keeps the order of what it writes, but not of what it gives up: if one record of a batch was not
confirmed, all of them are written again, and the last word on a client is the right one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from zpush.errors import MalformedMessage, QueueFull, QueueUnavailable
from zpush.queue import kafka_names
from zpush.queue.kafka_config import client_config
from zpush.queue.kafka_sender import Sender
from zpush.queue.presence import PresenceEvent, encode

if TYPE_CHECKING:
    from zpush.queue.open import QueueSettings

SIZE = {"message.max.bytes": kafka_names.PRESENCE_RECORD_BYTES}  # whatever users allow their messages


class KafkaPresenceWriter:
    def __init__(self, queue: QueueSettings, url: str) -> None:
        """ConfigError where the URL or a setting is wrong."""
        self._topic = kafka_names.presence(queue.prefix)
        self._sender = Sender("zpush-presence", {**client_config(url, queue.kafka), **SIZE})

    async def start(self) -> None:
        await self._sender.start()

    async def stop(self) -> None:
        await self._sender.stop()

    async def write(self, events: Sequence[PresenceEvent]) -> None:
        batch = _Batch(len(events))
        for each in events:
            try:
                self._sender.send(self._topic, encode(each), each.client, [], batch.settle, 0)
            except (QueueFull, QueueUnavailable, MalformedMessage) as e:
                batch.settle(0, e)
        await batch.done
        if batch.error is not None:
            raise QueueUnavailable(str(batch.error))


class _Batch:
    """Records under way. error: the first that was told."""

    __slots__ = ("done", "error", "left")

    def __init__(self, left: int) -> None:
        self.left = left
        self.error: Exception | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(self, index: int, error: Exception | None) -> None:
        self.error = self.error or error
        self.left -= 1
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)
