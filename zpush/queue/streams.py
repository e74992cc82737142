"""The queue on Redis Streams: how it works as a whole, and its producer.

Rules. Each priority has P partition streams; a client's messages stand in one of them, in order. A stream
is bounded: what does not fit is refused (QueueFull) and nothing is ever trimmed, so an entry leaves only
when its outcome is known. Its length is therefore the backlog, and its first id the age.

A stream is read by one reader at a time. A consumer group alone does not give that: it hands two messages
of one client to two processors. So the group has one consumer, `reader`, and who may act as it is decided
by a lease, `{<stream>}:reader`, whose value names a reader and its tenure. Every script that reads or
finishes compares the lease first: a reader that slept past its lease is refused by the server, whatever
it believes. What was read and not finished is pending in the group: the next reader gets it first.

Who gets which stream: readers announce themselves in `<prefix>.readers`, and each holds its fair share
(layout.py). One that holds more gives the rest up once what it took from them is finished.

Taken (202) means: in the server's memory, and in its append-only file as that is configured (`appendfsync
everysec`: at most a second is lost with the machine, nothing with the server's process).

Reading order: base, layout, entry, *.lua, this file, partition, tenure, wake, stream_consumer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial

from zpush.errors import MalformedMessage, QueueFull, QueueUnavailable
from zpush.protocol.message import Message, Priority
from zpush.queue import scripts
from zpush.queue.base import Lag
from zpush.queue.entry import MAX_PAYLOAD_BYTES, to_fields
from zpush.queue.lag import LagReader
from zpush.queue.layout import Layout
from zpush.store import Future, Refusal, Store

BATCH_BYTES = 1024 * 1024  # a script call
SLICE = 250  # messages a turn of the loop: 3 ms here, and at most 1 ms of the server's time, with nobody else served
PENDING_BYTES = 64 * 1024 * 1024  # payloads that wait for the server's word; past it, publish refuses


class _Call:
    """One publish() under way: a result per message, and a future for when all are known.

    begun: so many of its messages have left, or were refused.
    """

    __slots__ = ("begun", "done", "left", "messages", "results")

    def __init__(self, messages: Sequence[Message], done: asyncio.Future[list[Exception | None]]) -> None:
        self.messages = messages
        self.results: list[Exception | None] = [None] * len(messages)
        self.begun = 0
        self.left = len(messages)
        self.done = done

    def settle(self, index: int, error: Exception | None) -> None:
        self.results[index] = error
        self.left -= 1
        if self.left == 0 and not self.done.done():
            self.done.set_result(self.results)


class _Batch:
    """Entries of one stream that travel in one script call, in the order they came."""

    __slots__ = ("arguments", "bytes", "origins")

    def __init__(self) -> None:
        self.arguments: list[str | bytes] = []
        self.origins: list[tuple[_Call, int]] = []
        self.bytes = 0

    @property
    def full(self) -> bool:
        return self.bytes >= BATCH_BYTES

    def add(self, call: _Call, index: int) -> None:
        fields = to_fields(call.messages[index])
        self.arguments.append(b"%d" % len(fields))
        self.arguments += fields
        self.origins.append((call, index))
        self.bytes += len(call.messages[index].payload)


class StreamProducer:
    """Publishes of one loop turn, or a slice of them, become one script call per stream, all in one write.

    Owns its store.
    """

    def __init__(self, store: Store, layout: Layout, max_messages: int) -> None:
        """max_messages: per priority; each of its streams takes its part of them."""
        self._store = store
        self._layout = layout
        self._bound = max(1, max_messages // layout.partitions)
        self._publish = store.script(scripts.PUBLISH)
        self._lag = LagReader(store, layout)
        self._calls: deque[_Call] = deque()  # not all of whose messages have left
        self._pending_bytes = 0

    @property
    def up(self) -> bool:
        return self._store.up

    @property
    def reason(self) -> str:
        """Why it is not up; "" where it is."""
        return self._store.reason

    async def start(self) -> None:
        await self._store.start()

    async def stop(self) -> None:
        await self._store.stop()

    async def lag(self) -> dict[Priority, Lag]:
        return await self._lag.read()

    def publish(self, messages: Sequence[Message]) -> asyncio.Future[list[Exception | None]]:
        """Per message: None, QueueFull, QueueUnavailable, or MalformedMessage (too large)."""
        loop = asyncio.get_running_loop()
        call = _Call(messages, loop.create_future())
        if not messages:
            call.done.set_result([])
            return call.done
        if not self._calls:
            loop.call_soon(self._flush)
        self._calls.append(call)
        return call.done

    def _flush(self) -> None:
        """One slice; whatever is left has its turn later, before what comes meanwhile."""
        open_batches: dict[str, _Batch] = {}
        room = SLICE
        while self._calls and room:
            call = self._calls[0]
            begin, call.begun = call.begun, min(len(call.messages), call.begun + room)
            room -= call.begun - begin
            for index in range(begin, call.begun):
                self._add(call, index, open_batches)
            if call.begun == len(call.messages):
                self._calls.popleft()
        for stream, batch in open_batches.items():
            self._send(stream, batch)
        if self._calls:
            asyncio.get_running_loop().call_soon(self._flush)

    def _add(self, call: _Call, index: int, open_batches: dict[str, _Batch]) -> None:
        message = call.messages[index]
        refusal = self._refusal(message)
        if refusal is not None:
            call.settle(index, refusal)
            return
        stream = self._layout.stream(message.priority, self._layout.partition_of(message.key))
        batch = open_batches.setdefault(stream, _Batch())
        batch.add(call, index)
        self._pending_bytes += len(message.payload)
        if batch.full:
            self._send(stream, open_batches.pop(stream))

    def _refusal(self, message: Message) -> Exception | None:
        size = len(message.payload)
        if size > MAX_PAYLOAD_BYTES:
            return MalformedMessage(f"the payload has {size} bytes; at most {MAX_PAYLOAD_BYTES} are allowed", "data")
        if self._pending_bytes + size > PENDING_BYTES:
            return QueueFull(f"{PENDING_BYTES >> 20} MiB wait for the queue's server already")
        return None

    def _send(self, stream: str, batch: _Batch) -> None:
        answer = self._store.eval(self._publish, stream, self._bound, *batch.arguments)
        answer.add_done_callback(partial(self._answered, stream, batch))

    def _answered(self, stream: str, batch: _Batch, answer: Future) -> None:
        self._pending_bytes -= batch.bytes
        failure = answer.exception()
        taken = answer.result() if failure is None else 0
        error: Exception
        if failure is None:
            error = QueueFull(f"{stream} holds {self._bound} messages, its bound")
        elif isinstance(failure, Refusal) and failure.code == "OOM":
            error = QueueFull("the queue's server is at its memory limit")
        else:
            error = QueueUnavailable(str(failure))
        for position, (call, index) in enumerate(batch.origins):
            call.settle(index, None if position < taken else error)
