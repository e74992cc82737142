"""Receipts on Kafka: the topic `<prefix>.receipts`, keyed by the message's id, so that one partition has all of one.

Rules. Writing: what librdkafka's queue has no room for waits here; how much that is, is bounded by who waits for the
receipts. Reading: from an offset by time, of the one partition that Java's partitioner gives to the id, as the sender
uses it. Receipts that were written before the number of partitions was changed may be in another one.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING

from zpush.errors import QueueFull, ZpushError
from zpush.log import SparseLog
from zpush.queue import kafka_names
from zpush.queue.base import RECEIPT_RETRY_S
from zpush.queue.kafka_config import client_config
from zpush.queue.kafka_scan import Scan
from zpush.queue.kafka_sender import Sender
from zpush.queue.receipt import Receipt, decode, encode

if TYPE_CHECKING:
    from zpush.queue.open import QueueSettings

TIMEOUT = {"delivery.timeout.ms": int(RECEIPT_RETRY_S * 1000)}
Done = Callable[[bool], None]
log = logging.getLogger("zpush.queue")


class KafkaReceiptWriter:
    def __init__(self, queue: QueueSettings, url: str) -> None:
        """ConfigError where the URL or a setting is wrong."""
        self._topic = kafka_names.receipts(queue.prefix)
        self._sender = Sender("zpush-receipts", {**TIMEOUT, **client_config(url, queue.kafka)})
        self._waiting: deque[tuple[str, bytes, Done]] = deque()
        self._stopping = False
        self._sparse = SparseLog(log)

    async def start(self) -> None:
        await self._sender.start()

    async def stop(self) -> None:
        self._stopping = True
        await self._sender.stop()

    def write(self, receipt: Receipt, done: Done) -> None:
        self._waiting.append((receipt.id, encode(receipt), done))
        self._send()

    def _send(self) -> None:
        while self._waiting:
            key, value, done = self._waiting[0]
            try:
                self._sender.send(self._topic, value, key, [], partial(self._reported, done), 0)
            except QueueFull:
                return  # the next report makes room
            except ZpushError as e:
                self._waiting.popleft()
                self._settle(done, e)
            else:
                self._waiting.popleft()

    def _reported(self, done: Done, index: int, error: Exception | None) -> None:
        self._settle(done, error)
        if self._waiting and not self._stopping:
            self._send()

    def _settle(self, done: Done, error: Exception | None) -> None:
        if error is None:
            done(True)
        elif not self._stopping:
            self._sparse.warning("receipts are lost", reason=str(error))
            done(False)


class KafkaReceiptReader:
    def __init__(self, queue: QueueSettings, url: str) -> None:
        """ConfigError where the URL or a setting is wrong."""
        self._scan = Scan(kafka_names.receipts(queue.prefix), url, queue.kafka, queue.kafka.group)
        self._partitions = 0

    async def start(self) -> None:
        self._partitions = len(await self._scan.open())

    async def stop(self) -> None:
        await self._scan.close()

    async def read(self, message_id: str, since_ms: int, follow: bool) -> AsyncIterator[Receipt]:
        key = message_id.encode()
        partition = partition_of(key, self._partitions)
        starts, (_, end) = {partition: await self._scan.at(partition, since_ms)}, await self._scan.bounds(partition)
        batches = self._scan.follow(starts) if follow else self._scan.read(starts, {partition: end})
        async for records in batches:
            for record in records:
                if record.key() == key:
                    receipt = decode(record.value())
                    if receipt is not None and receipt.id == message_id:
                        yield receipt


def partition_of(key: bytes, partitions: int) -> int:
    """As Java's DefaultPartitioner and librdkafka's murmur2_random have it."""
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


def _murmur2(data: bytes) -> int:
    """org.apache.kafka.common.utils.Utils.murmur2, without its sign."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ len(data)) & mask
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15
