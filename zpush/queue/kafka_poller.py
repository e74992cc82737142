"""The thread of one Kafka consumer. Every call on the consumer's handle is made here: poll() holds a lock on it.

Rules. The thread knows nothing of what is read: it brings records to the loop, a batch and a wake-up at a time, and
commits what the loop tells it to. poll() waits for the first record, consume() takes what came with it. Reading ahead
is bounded: while enough waits on the loop nothing is asked for; where that lasts the partitions are paused and polled,
for only poll() answers a rebalance. A commit is awaited: an asynchronous one would be answered by poll() only, which
brings records when there is no room for them.

A rebalance is a conversation. Assigned: committed offsets, notes and log ends are read first, then the loop has the
partition, then its records come. Revoked: the loop gives the partition up (what is under way has a moment), the thread
commits what it says, and only then the partition is anybody else's. Lost: the loop is told, nothing is committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaRecord

from zpush._fast.taking import sort_out
from zpush.errors import QueueUnavailable
from zpush.log import SparseLog, event
from zpush.queue import kafka_note
from zpush.queue.kafka_config import opened
from zpush.queue.kafka_link import Link
from zpush.queue.kafka_partition import Commit, Key, Tenure

BATCH = 1000
AHEAD_BYTES = 8 << 20
POLL_S = 0.05  # what the loop wants to have committed waits so long at most
FULL_S = 0.25  # before partitions are paused, which throws away what librdkafka has fetched ahead
LOOK_UP_S = 5.0  # for the brokers' answer
LOOK_UPS = 12
LOOK_AGAIN_S = 1.0
GIVE_UP_S = 30.0  # more than the loop takes
STOP_S = 5.0
log = logging.getLogger("zpush.queue")

DEFAULTS: Mapping[str, Any] = {
    "fetch.queue.backoff.ms": 20,  # a full local queue is looked at again after this; by default after a second
    # What is fetched ahead is bounded as it is unpacked, but an answer on its way as it is packed: 50 times smaller,
    # perhaps. So answers are small. A record that is larger comes all the same, alone.
    "fetch.message.max.bytes": 128 << 10,  # of one partition
    "fetch.max.bytes": 1 << 20,  # of all
    "queued.min.messages": 4_000,
    "queued.max.messages.kbytes": 16 << 10,
    "topic.metadata.refresh.interval.ms": 10_000,  # new topics are found within this
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 1_000,
}
CLASSIC: Mapping[str, Any] = {
    "partition.assignment.strategy": "cooperative-sticky",
    "session.timeout.ms": 10_000,  # a killed processor's partitions are taken over after this
    "heartbeat.interval.ms": 1_000,
}
MUSTS: Mapping[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",  # what was written before the first processor came is read
}


class LoopSide(Protocol):
    """Who has the records. All but the counters is called on the loop."""

    taken: int  # records that have left its buffer
    taken_bytes: int

    def arrived(self, records: list[KafkaRecord]) -> None: ...

    def assigned(self, tenures: Sequence[Tenure]) -> None: ...

    def give_up(self, keys: Sequence[Key]) -> Coroutine[Any, Any, list[Commit]]: ...

    def lost(self, keys: Sequence[Key]) -> None: ...

    def answered(self, is_done: bool) -> None:
        """To the commit that is under way."""
        ...

    def failed(self, error: Exception) -> None: ...


class Poller:
    """link: whether it is connected."""

    def __init__(
        self,
        name: str,
        subscription: str,
        config: Mapping[str, Any],
        ahead: int,
        side: LoopSide,
        on_verdict: Callable[[], None],
    ) -> None:
        """config: client_config's, with group.id and group.protocol. ahead: records that may wait at `side`."""
        self.link = Link(name, lambda: self._call(on_verdict))
        protocol = CLASSIC if config["group.protocol"] == "classic" else {}
        self._config = {**DEFAULTS, **protocol, **config, **MUSTS, **self.link.callbacks()}
        self._subscription = subscription
        self._ahead = ahead
        self._side = side
        self._brought = 0
        self._brought_bytes = 0
        self._commits: deque[Sequence[Commit]] = deque()
        self._gaps: deque[tuple[Key, range]] = deque()  # to be explained
        self._held: set[Key] = set()
        self._has_lost = False  # partitions, since the last poll()
        self._news = threading.Event()  # more room, something to commit, the end
        self._stopping = threading.Event()
        self._is_paused = False
        self._sparse = SparseLog(log)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._consumer: Consumer
        self._loop: asyncio.AbstractEventLoop

    # On the loop

    def start(self) -> None:
        """ConfigError where librdkafka does not take its settings."""
        self._loop = asyncio.get_running_loop()
        self._consumer = opened(Consumer, self._config)
        self._thread.start()

    async def stop(self) -> None:
        """Gives everything up and leaves the group."""
        if self._thread.ident is None:
            return  # never started
        self._stopping.set()
        self._news.set()
        await asyncio.to_thread(self._thread.join, STOP_S)
        if self._thread.is_alive():
            event(log, "left without a word", logging.WARNING, connection=self._thread.name, reason="Kafka is away")

    def commit(self, commits: Sequence[Commit]) -> None:
        """Soon; `side` is told how it went. One at a time."""
        self._commits.append(commits)
        self._news.set()

    def explain(self, key: Key, gap: range) -> None:
        """Offsets that no record came for: soon it is told whether retention deleted some."""
        self._gaps.append((key, gap))

    def more_room(self) -> None:
        """Records have been taken. The thread is not woken up for less than it would ask for."""
        if not self._news.is_set() and self._room():
            self._news.set()

    # In the thread

    def _run(self) -> None:
        try:
            self._consumer.subscribe(
                [self._subscription], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            while not self._stopping.is_set():
                self._commit()
                self._explain()
                if room := self._room():
                    self._read(room)
                else:
                    self._wait_for_room()
            self._consumer.close()
        except Exception as e:  # noqa: BLE001 - wait() raises it on the loop: without this thread nothing would ever arrive
            self._call(self._side.failed, e)

    def _room(self) -> int:
        """Records to ask for; 0 for few: they are asked for in large steps."""
        free = self._ahead - (self._brought - self._side.taken)
        if free < self._ahead // 4 or self._brought_bytes - self._side.taken_bytes >= AHEAD_BYTES:
            return 0
        return min(free, BATCH)

    def _read(self, room: int) -> None:
        first = self._consumer.poll(POLL_S)
        if first is None:
            return
        self._has_lost = False
        found = [first, *self._consumer.consume(room - 1, 0)] if room > 1 else [first]
        if self._has_lost:  # consume() answers rebalances too, with records in our hands
            found = [record for record in found if (record.topic(), record.partition()) in self._held]
        self._bring(found)

    def _bring(self, found: list[KafkaRecord]) -> None:
        records, records_bytes, errors = sort_out(found)
        for error in errors:
            self._on_error(error)
        if records:
            self._brought += len(records)
            self._brought_bytes += records_bytes
            self._call(self._side.arrived, records)

    def _wait_for_room(self) -> None:
        self._news.clear()
        if self._room() or self._commits or self._news.wait(FULL_S):
            return
        self._consumer.pause(self._consumer.assignment())
        self._is_paused = True
        while not self._stopping.is_set() and not self._room():
            self._commit()
            event_or_record = self._consumer.poll(POLL_S)
            if event_or_record is not None:
                self._bring([event_or_record])
        self._consumer.resume(self._consumer.assignment())
        self._is_paused = False

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            raise QueueUnavailable(f"this Kafka consumer cannot go on: {error.str()}")
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            self.link.trouble(f"{error.str()}: `zpush topics create` makes what is missing")
        elif error.code() in _NO_RIGHTS:
            self.link.trouble(error.str())
        else:
            self._sparse.warning("Kafka complains", connection=self._thread.name, reason=error.str())

    def _call(self, what: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(what, *arguments)
        except RuntimeError:  # the loop is closed: nobody waits for anything any more
            self._stopping.set()

    # Commits

    def _commit(self) -> None:
        while self._commits:
            # What a rebalance has overtaken says less than what its partition was given up with: the brokers would
            # take it all the same, and the partition's next owner would begin there.
            commits = [commit for commit in self._commits.popleft() if commit.key in self._held]
            self._call(self._side.answered, not commits or self._commit_now(self._consumer, commits))

    def _commit_now(self, consumer: Consumer, commits: Sequence[Commit]) -> bool:
        """False where the brokers did not take it all."""
        offsets = [TopicPartition(*commit.key, commit.offset, commit.note) for commit in commits]
        try:
            answers = consumer.commit(offsets=offsets, asynchronous=False)
            error = next((answer.error for answer in answers if answer.error is not None), None)
        except KafkaException as e:
            error = e.args[0]
        if error is None:
            self.link.well()
        elif error.code() in _NO_RIGHTS:
            self.link.trouble(error.str())
        elif error.code() not in _REBALANCING:
            self._sparse.warning("cannot commit", connection=self._thread.name, reason=error.str())
        return error is None

    def _explain(self) -> None:
        while self._gaps:
            key, gap = self._gaps.popleft()
            with contextlib.suppress(KafkaException):  # not its leader any more, or away
                first, _ = self._consumer.get_watermark_offsets(TopicPartition(*key), LOOK_UP_S)
                _tell_deleted(key, len(range(gap.start, min(first, gap.stop))))

    # Rebalances

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        tenures = self._look_up(consumer, partitions) if partitions else []
        self._held.update(tenure.key for tenure in tenures)
        consumer.incremental_assign([TopicPartition(*tenure.key, tenure.offset) for tenure in tenures])
        # librdkafka remembers a pause beyond a revocation.
        (consumer.pause if self._is_paused else consumer.resume)(partitions)
        if tenures:
            self.link.well()
            self._call(self._side.assigned, tenures)

    def _look_up(self, consumer: Consumer, partitions: list[TopicPartition]) -> list[Tenure]:
        """Where to begin. The group believes that these are read, so without an answer this reader has to end."""
        reason = ""
        for _ in range(LOOK_UPS):
            try:
                return [_tenure(consumer, found) for found in consumer.committed(partitions, LOOK_UP_S)]
            except KafkaException as e:
                reason = e.args[0].str()
                self._sparse.warning("cannot look up offsets", connection=self._thread.name, reason=reason)
                if self._stopping.wait(LOOK_AGAIN_S):
                    return []
        raise QueueUnavailable(f"cannot look up the offsets of {self._subscription}: {reason}")

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        told = asyncio.run_coroutine_threadsafe(self._side.give_up(_keys(partitions)), self._loop)
        if commits := told.result(GIVE_UP_S):
            self._commit_now(consumer, commits)
        self._unassign(consumer, partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._call(self._side.lost, _keys(partitions))
        self._unassign(consumer, partitions)

    def _unassign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._held.difference_update(_keys(partitions))
        self._has_lost = True
        consumer.incremental_unassign(partitions)


_NO_RIGHTS = frozenset(
    (
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    )
)
# The partition may be another's already. If it is not, the next commit says the same.
_REBALANCING = frozenset(
    (KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS)
)


def _tell_deleted(key: Key, count: int) -> None:
    if count > 0:
        what = "retention deleted unread records"
        event(log, what, logging.ERROR, topic=key[0], partition=key[1], count=count)


def _keys(partitions: Sequence[TopicPartition]) -> list[Key]:
    return [(partition.topic, partition.partition) for partition in partitions]


def _tenure(consumer: Consumer, committed: TopicPartition) -> Tenure:
    """Where this reader begins. KafkaException."""
    if committed.error is not None:
        raise KafkaException(committed.error)
    key, offset = (committed.topic, committed.partition), committed.offset
    first, end = consumer.get_watermark_offsets(committed, LOOK_UP_S)
    begin, note = kafka_note.resume(offset, committed.metadata, first, end)
    if offset >= 0:
        _tell_deleted(key, begin - offset - note.finished_in(offset, begin))
    return Tenure(key, begin, note, end)
