"""Which streams this reader holds: announce, renew, claim, give up.

Rules. One round a sixth of the lease's TTL; every 0.2 s while streams are missing to a full share. A lease
counts from when its renewal was sent, not from when it was answered, so this reader stops before the
server lets another in. A stream is given up when nothing taken from it is unfinished, but no later than a third
of the TTL after nothing more was taken: what one slow consumer keeps unfinished is read again by the next
reader, and nobody else waits for it. A stream is lost when the server or the clock says so. A server that is
away changes nothing, the clock does.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Collection, Sequence
from typing import Protocol

from zpush.errors import Unavailable
from zpush.log import SparseLog, event
from zpush.protocol.message import Priority
from zpush.queue import scripts
from zpush.queue.layout import Layout, fair_share, member, readers_of
from zpush.queue.partition import Partition
from zpush.store import ReplyError, Store

LEASE_TTL_S = 6.0
ROUNDS_PER_TTL = 6
HAND_OVERS_PER_TTL = 3
log = logging.getLogger("zpush.queue")
HUNGRY_S = 0.2  # between rounds while a partition that is due to this reader is not its own yet


class Holder(Protocol):
    """Who reads the streams."""

    def gained(self, partition: Partition) -> None: ...

    def lost(self, partition: Partition) -> None: ...

    def renewed(self) -> None: ...


class Tenures:
    """held: per priority, by number. reader_id is new with every process."""

    def __init__(
        self, store: Store, layout: Layout, priorities: Sequence[Priority], holder: Holder, lease_ttl_s: float
    ) -> None:
        self.held: dict[Priority, dict[int, Partition]] = {p: {} for p in priorities}
        self.reader_id = secrets.token_hex(5)
        self._store = store
        self._layout = layout
        self._holder = holder
        self._ttl_s = lease_ttl_s
        self._ttl_ms = int(lease_ttl_s * 1000)
        self._tenure = 0
        self._member = member(self.reader_id, priorities)
        self._claim, self._renew, self._release, self._join = (
            store.script(s) for s in (scripts.CLAIM, scripts.RENEW, scripts.RELEASE, scripts.JOIN)
        )
        self._stopping = asyncio.Event()
        self._sparse = SparseLog(log)  # it is tried again every round
        self._reported: dict[str, int] = {}
        self._dropped: dict[str, list[str]] = {}  # by reason, in this turn of the loop

    async def run(self) -> None:
        """Rounds until stop()."""
        while not self._stopping.is_set():
            hungry = await self._round()
            try:
                async with asyncio.timeout(HUNGRY_S if hungry else self._ttl_s / ROUNDS_PER_TTL):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    def stop(self) -> None:
        """No more rounds; what is held stays held until leave()."""
        self._stopping.set()

    async def leave(self) -> None:
        """Gives everything up, settled or not, and is no reader any more; also where the server is away."""
        partitions = self.partitions()
        for partitions_of in self.held.values():
            partitions_of.clear()
        await self._store.eval_many(self._release, [_release_arguments(p) for p in partitions])
        await self._store.call_many([(self._layout.readers, ("ZREM", self._layout.readers, self._member))])

    def partitions(self) -> list[Partition]:
        return [p for held in self.held.values() for p in held.values()]

    def current(self, partition: Partition) -> bool:
        """Whether this object is the tenure that counts."""
        return self.held[partition.priority].get(partition.number) is partition

    def drop(self, partition: Partition, reason: str) -> None:
        """The lease is not ours any more."""
        if self.current(partition):
            del self.held[partition.priority][partition.number]
            if not self._dropped:
                asyncio.get_running_loop().call_soon(self._report_dropped)
            self._dropped.setdefault(reason, []).append(partition.stream)
            self._holder.lost(partition)

    def release_if_settled(self, partition: Partition) -> None:
        """The last step of giving a stream up. Where it does not arrive the lease runs out by itself."""
        if partition.leaving and partition.settled and self.current(partition):
            self._give_up(partition)

    def _give_up(self, partition: Partition) -> None:
        del self.held[partition.priority][partition.number]
        answer = self._store.eval(self._release, *_release_arguments(partition))
        answer.add_done_callback(lambda future: future.exception())  # nothing hangs on the answer

    def _give_up_overdue(self) -> None:
        """What is outstanding stays pending there: the next reader gets it as redelivered."""
        now_s = time.monotonic()
        for partition in self.partitions():
            if partition.leaving and now_s >= partition.leave_by_s and partition.only_outstanding:
                self._give_up(partition)
                self._holder.lost(partition)

    async def _round(self) -> bool:
        """True where partitions are missing to the full share."""
        await self._renew_all()
        self._give_up_overdue()
        try:
            reply = await self._store.eval(self._join, self._layout.readers, self._member, self._ttl_ms)
        except (Unavailable, ReplyError) as e:
            event(log, "cannot announce this reader", logging.DEBUG, reason=str(e))  # the store has said why
            return False
        members = [text.decode() for text in reply]
        hungry = False
        for priority in self.held:
            hungry |= await self._balance(priority, members)
        self._report()
        return hungry

    async def _renew_all(self) -> None:
        partitions = self.partitions()
        sent_s = time.monotonic()
        replies = await self._store.eval_many(self._renew, [(p.stream, p.token, self._ttl_ms) for p in partitions])
        for partition, reply in zip(partitions, replies, strict=True):
            if reply == 1:
                partition.valid_until_s = sent_s + self._ttl_s
            elif reply == 0:
                self.drop(partition, "another reader's turn, or the lease was gone")
            elif time.monotonic() >= partition.valid_until_s:
                self.drop(partition, f"not renewed for {self._ttl_s:g} s")
        self._holder.renewed()

    async def _balance(self, priority: Priority, members: Collection[str]) -> bool:
        share, first = fair_share(self._layout.partitions, readers_of(members, priority), self.reader_id)
        held = self.held[priority]
        kept = [p for p in held.values() if not p.leaving]
        for partition in sorted(kept, key=lambda p: (len(p.outstanding), len(p.buffer)))[: max(0, len(kept) - share)]:
            partition.leaving = True
            partition.leave_by_s = time.monotonic() + self._ttl_s / HAND_OVERS_PER_TTL
            self.release_if_settled(partition)
        missing = share - len(kept)
        numbers = [(first + i) % self._layout.partitions for i in range(self._layout.partitions)]
        free = [number for number in numbers if number not in held]
        while missing > 0 and free and not self._stopping.is_set():
            chunk, free = free[:missing], free[missing:]
            missing -= await self._claim_some(priority, chunk)
        return missing > 0

    async def _claim_some(self, priority: Priority, numbers: Sequence[int]) -> int:
        """How many of these were free."""
        streams = [self._layout.stream(priority, number) for number in numbers]
        tokens = [self._new_token() for _ in numbers]
        sent_s = time.monotonic()
        calls = [(stream, token, self._ttl_ms) for stream, token in zip(streams, tokens, strict=True)]
        replies = await self._store.eval_many(self._claim, calls)
        gained = 0
        for number, stream, token, reply in zip(numbers, streams, tokens, replies, strict=True):
            if isinstance(reply, bytes):
                partition = Partition(priority, number, stream, token, reply, sent_s + self._ttl_s)
                self.held[priority][number] = partition
                self._holder.gained(partition)
                gained += 1
            elif isinstance(reply, ReplyError):
                self._sparse.warning("cannot claim a stream", stream=stream, reason=str(reply))
        return gained

    def _new_token(self) -> str:
        self._tenure += 1
        return f"{self.reader_id}.{self._tenure}"

    def _report_dropped(self) -> None:
        """One line a reason and turn: a server that was away costs all streams at once."""
        dropped, self._dropped = self._dropped, {}
        for reason, streams in dropped.items():
            event(log, "streams lost", logging.WARNING, count=len(streams), first=streams[0], reason=reason)
        self._reported = {}  # who holds as many again as before has news, too

    def _report(self) -> None:
        """One line when what is held has changed."""
        counts = {priority.label: len(held) for priority, held in self.held.items()}
        if counts != self._reported:
            event(log, "streams held", of=self._layout.partitions, held=counts)
            self._reported = counts


def _release_arguments(partition: Partition) -> tuple[str | bytes, ...]:
    back_to, new = partition.read_ahead()
    return (partition.stream, partition.token, back_to, *new)
