"""The queue on Kafka: how it works as a whole, and its consumer.

Rules. Each priority is a topic, read by a consumer group, a thread and a fetch of its own: nothing of low stands in
front of high, and a rebalance of one leaves the others alone. A message's key is its client, so a client's messages
stand in one partition, in order; a partition is read by one processor at a time, as the group protocol has it.

Kafka keeps records until retention deletes them; what is finished is what offsets say. A partition's committed offset
is its first unfinished record, and the note beside it tells which of the later ones are finished, and how far records
were handed out. So the next reader of the partition redelivers what is unfinished and nothing else, and knows it for
redelivered; and the backlog can be known without a consumer. Commits come twice a second, and when a partition is given
up.

Taken (202) means: written by all replicas that are in sync. Never lost is what was taken, unless retention deletes it
unread; that is logged, and the lag shows it coming.

Reading order: base, kafka_names, kafka_record, kafka_link, kafka_sender, kafka_producer, this file, kafka_note,
kafka_partition, kafka_poller, kafka_reader, kafka_dead, kafka_lag.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from zpush._fast.record import Record, by_priority
from zpush.protocol.message import Priority
from zpush.queue import kafka_names
from zpush.queue.base import Lag
from zpush.queue.kafka_config import client_config
from zpush.queue.kafka_lag import LagReader
from zpush.queue.kafka_reader import Reader

if TYPE_CHECKING:
    from zpush.queue.open import QueueSettings

AHEAD_BATCHES = 4  # that wait here per priority: for what is taken while the thread awaits a commit, some 8 ms
COMMIT_S = 0.5
HAND_OVER_S = 1.0  # for what is under way, when a partition goes to another processor
START_S = 2.0


class KafkaConsumer:
    def __init__(
        self,
        queue: QueueSettings,
        url: str,
        priorities: Sequence[Priority],
        batch: int,
        on_dead: Callable[[Priority, bool], None],
        hand_over_s: float = HAND_OVER_S,
    ) -> None:
        """on_dead(priority, redelivered): a record went to the dead letters. ConfigError where the URL is wrong."""
        config = {**client_config(url, queue.kafka), "group.protocol": queue.kafka.protocol}
        self._arrived = asyncio.Event()
        self._callbacks: list[Callable[[Priority, int], None]] = []
        self._ticking: asyncio.TimerHandle | None = None
        self._lag = LagReader(queue, url)
        self._readers = {
            priority: Reader(
                priority,
                kafka_names.topic(queue.prefix, priority),
                kafka_names.subscription(queue.prefix, priority, queue.kafka.mirrored),
                kafka_names.dead(queue.prefix),
                {**config, "group.id": kafka_names.group(queue.kafka.group, priority)},
                AHEAD_BATCHES * batch,
                hand_over_s,
                on_dead,
                self._revoked,
                self._arrived.set,
            )
            for priority in priorities
        }

    @property
    def up(self) -> bool:
        return all(reader.link.up for reader in self._readers.values())

    @property
    def reason(self) -> str:
        """Why it is not up; "" where it is."""
        return next((reader.link.reason for reader in self._readers.values() if not reader.link.up), "")

    async def start(self) -> None:
        """Returns when it is connected or has failed to. ConfigError where librdkafka does not take its settings."""
        for reader in self._readers.values():
            reader.start()
        self._tick()
        try:
            async with asyncio.timeout(START_S):
                while not all(reader.link.known for reader in self._readers.values()):
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return  # slow to answer: it goes on by itself

    async def stop(self) -> None:
        """What was finished is committed, and the groups are left; what is unfinished is redelivered."""
        if self._ticking is not None:
            self._ticking.cancel()
        await asyncio.gather(*(reader.stop() for reader in self._readers.values()))
        await self._lag.close()

    def on_revoked(self, callback: Callable[[Priority, int], None]) -> None:
        self._callbacks.append(callback)

    async def lag(self) -> dict[Priority, Lag]:
        return await self._lag.read()

    def take(self, priority: Priority, limit: int) -> list[Record]:
        return self._readers[priority].take(limit)

    async def wait(self, priorities: Sequence[Priority] = tuple(Priority)) -> None:
        """Raises what has ended a priority's thread."""
        await asyncio.sleep(0)  # take() may have got on without a record to show for it: others have their turn
        while not self._is_ready(priorities):
            self._arrived.clear()
            await self._arrived.wait()

    def finish(self, records: Sequence[Record]) -> None:
        of_priority = by_priority(records)
        for priority, reader in self._readers.items():
            reader.finish(of_priority[priority])

    def _is_ready(self, priorities: Sequence[Priority]) -> bool:
        ready = False
        for priority in priorities:
            reader = self._readers.get(priority)
            if reader is not None:
                if reader.failure is not None:
                    raise reader.failure
                ready |= reader.ready
        return ready

    def _revoked(self, priority: Priority, partition: int) -> None:
        for callback in self._callbacks:
            callback(priority, partition)

    def _tick(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(COMMIT_S, self._tick)
        for reader in self._readers.values():
            reader.tick()
