"""A back end of the queue as the contract's tests see it: open, break, look inside."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from redis.asyncio import Redis

from tests.support import Valkey, eventually
from zpush._fast.record import Record
from zpush.config.settings import Queue
from zpush.protocol.message import Message, Priority
from zpush.queue.base import Consumer, Lag, Producer
from zpush.queue.layout import Layout
from zpush.queue.stream_consumer import StreamConsumer
from zpush.queue.streams import StreamProducer
from zpush.store import Store

LEASE_TTL_S = 1.2
SURE_S = 12.0  # a lease that no busy machine lets run out
_numbers = itertools.count()


def message(key: str, text: str = "", priority: Priority = Priority.NORMAL, **fields: Any) -> Message:
    """A message with a new id; its text is the id where none is given."""
    message_id = f"m{next(_numbers)}"
    return Message(message_id, key, (text or message_id).encode(), priority=priority, **fields)


async def take_all(
    consumers: Sequence[Consumer], count: int, priority: Priority = Priority.NORMAL, *, finish: bool = True
) -> list[Record]:
    """Until `count` records have come, from whichever consumer; in order per partition."""
    records: list[Record] = []

    def step() -> bool:
        for consumer in consumers:
            taken = consumer.take(priority, 100)
            records.extend(taken)
            if finish:
                consumer.finish(taken)
        return len(records) >= count

    await eventually(step, f"{count} records, have {len(records)}", 15.0)
    return records


class Restarts(Protocol):
    """A server of the test's own."""

    def kill(self) -> None: ...

    def restart(self) -> None: ...


class Backend(Protocol):
    """What the contract's tests ask of one. Consumers and producers that are opened here are stopped by the fixture."""

    name: str
    layout: Any  # partitions, partition_of(key), stream(priority, partition)
    dead_letters: list[tuple[Priority, bool]]
    server: Restarts

    async def producer(self, max_messages: int = ...) -> Producer: ...

    async def consumer(
        self, priorities: Sequence[Priority] = ..., batch: int = ..., lease_ttl_s: float = ..., *, sure: bool = ...
    ) -> Consumer:
        """lease_ttl_s: what is under way has a third of it when a partition goes to another reader. sure: nothing comes
        twice because a busy machine looked like a dead reader; it takes as much longer to notice one.
        """
        ...

    async def stop(self, consumer: Consumer) -> None: ...

    async def abandon(self, consumer: Any) -> None:
        """As a killed process: nothing is given up, nothing more is said."""
        ...

    async def inject(self, priority: Priority, partition: int, fields: Mapping[str, bytes]) -> str:
        """A stranger's record, as it is. Its place within the partition."""
        ...

    async def dead(self) -> list[dict[str, str]]:
        """All dead letters: reason, stream, entry, time, and the record's own fields."""
        ...

    async def write(self, name: str, *records: Sequence[tuple[str, bytes]]) -> None:
        """A stranger's records in `<prefix>.<name>`: headers, and "key" and "payload"."""
        ...

    def queue(self) -> Any:
        """[queue], as it would be read from a file."""
        ...

    async def lag(self, priority: Priority = ...) -> Lag: ...

    async def empty(self, priority: Priority = ...) -> bool: ...

    def partitions_of(self, consumer: Any, priority: Priority = ...) -> set[int]: ...

    def partitions_ahead(self, consumer: Any) -> int:
        """Partitions of which something is read ahead."""
        ...

    def gives_up(self, consumer: Any) -> bool:
        """Whether it is giving a partition up."""
        ...

    async def close(self) -> None: ...


class Base:
    """What is the same for all."""

    def __init__(self) -> None:
        self.dead_letters: list[tuple[Priority, bool]] = []
        self._opened: list[Producer | Consumer] = []

    async def stop(self, consumer: Consumer) -> None:
        self._opened.remove(consumer)
        await consumer.stop()

    async def lag(self, priority: Priority = Priority.NORMAL) -> Lag:
        for opened in self._opened:
            if opened.up:
                return (await opened.lag())[priority]
        raise AssertionError("nothing is open that could be asked")

    async def empty(self, priority: Priority = Priority.NORMAL) -> bool:
        return (await self.lag(priority)).messages == 0

    async def close(self) -> None:
        for opened in self._opened:
            await opened.stop()

    def _on_dead(self, priority: Priority, redelivered: bool) -> None:
        self.dead_letters.append((priority, redelivered))


class StreamsBackend(Base):
    """Redis Streams on a real Valkey."""

    name = "streams"

    def __init__(self, valkey: Valkey, partitions: int = 4) -> None:
        super().__init__()
        self.valkey = self.server = valkey
        self.layout = Layout("zpush", partitions)
        self.redis = Redis.from_url(valkey.url)

    async def producer(self, max_messages: int = 1_000_000) -> StreamProducer:
        producer = StreamProducer(Store(self.valkey.url, name="test-producer"), self.layout, max_messages)
        self._opened.append(producer)
        await producer.start()
        return producer

    async def consumer(
        self,
        priorities: Sequence[Priority] = tuple(Priority),
        batch: int = 500,
        lease_ttl_s: float = LEASE_TTL_S,
        *,
        sure: bool = False,
    ) -> StreamConsumer:
        if sure:
            lease_ttl_s = SURE_S
        stores = [Store(self.valkey.url, name=name) for name in ("test-consumer", "test-waiter")]
        consumer = StreamConsumer(stores[0], stores[1], self.layout, priorities, batch, self._on_dead, lease_ttl_s)
        self._opened.append(consumer)
        await consumer.start()
        return consumer

    async def abandon(self, consumer: StreamConsumer) -> None:
        self._opened.remove(consumer)
        for task in consumer._tasks:
            task.cancel()
        await consumer._store.stop()
        await consumer._waiting.stop()

    async def inject(self, priority: Priority, partition: int, fields: Mapping[str, bytes]) -> str:
        entry: bytes = await self.redis.xadd(self.layout.stream(priority, partition), dict(fields))
        return entry.decode()

    async def write(self, name: str, *records: Sequence[tuple[str, bytes]]) -> None:
        async with self.redis.pipeline(transaction=False) as pipeline:
            for fields in records:
                pipeline.xadd(f"{self.layout.prefix}.{name}", dict(fields))
            await pipeline.execute()

    def queue(self) -> Queue:
        return Queue(prefix=self.layout.prefix, partitions=self.layout.partitions)

    async def dead(self) -> list[dict[str, str]]:
        entries = await self.redis.xrange(self.layout.dead)
        return [{k.decode(): v.decode(errors="replace") for k, v in fields.items()} for _, fields in entries]

    def partitions_of(self, consumer: StreamConsumer, priority: Priority = Priority.NORMAL) -> set[int]:
        return set(consumer._tenures.held[priority])

    def partitions_ahead(self, consumer: StreamConsumer) -> int:
        return sum(bool(p.buffer) for p in consumer._tenures.partitions())

    def gives_up(self, consumer: StreamConsumer) -> bool:
        return any(p.leaving for p in consumer._tenures.partitions())

    async def close(self) -> None:
        await super().close()
        await self.redis.aclose()
