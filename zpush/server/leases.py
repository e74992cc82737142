"""This worker's leases: its node key, the renewals, the repair.

Rules. The engine's slab is the only list of clients: renewals walk over it with a cursor, so that every lease
is renewed once in half its TTL and never many at a time; repairs walk over the dirty ones, at most
`repair_rate` a second. An epoch decides who holds a client: where the registry names a newer holder that lives, the
connection here is closed with 4002. One that is dead holds nothing, whatever its epoch (its clock was ahead): its lease
is removed and ours written, for 4002 would send away the only connection that the client has. While it repairs, the
node says so, and nobody calls its clients offline.

Out of turn it looks at its leases when the registry has connected again: at some of them, and where one is
missing all are written again. At all of them, by renewals at the repair rate, when its node key is gone: it stood still
past it, and its clients may be elsewhere by now, or the server has lost everything. And when it was not heard of
for half a node TTL: a peer that wanted to tell it of a newer connection may have given up.

A worker that cannot keep its leases must not go on: `running` ends, and the worker with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from zpush._fast.engine import Engine
from zpush.config.settings import Registry as Settings
from zpush.delivery.presence import Presence
from zpush.errors import RegistryUnavailable
from zpush.log import event
from zpush.protocol.close import REPLACED, reason_of
from zpush.registry.base import Lease, Node, NodeState, Registry, Renewal

SAMPLE = 256  # leases looked at where some may be missing: one of twenty shards that lost its data is met for sure
STEPS_A_SECOND = 10  # a second's repairs are spread over this many batches
_log = logging.getLogger("zpush.leases")

Found = tuple[int, bytes, bytes, int]  # handle, client id, user id, epoch


class LeaseKeeper:
    """start() announces the node; stop() withdraws it, and with it every lease of this worker."""

    engine: Engine  # set once the engine exists
    running: asyncio.Task[None]  # from start() on; it ends by stop(), or by a defect

    def __init__(self, registry: Registry, settings: Settings, node: Node, presence: Presence | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._registry = registry
        self._settings = settings
        self._node = node
        self._presence = presence
        self._repairing = False
        self._repair_until_s = 0.0  # and no shorter
        self._allowance = 0.0  # leases that may be repaired or looked at now; what is less than one is kept
        self._doubted = 0  # slots whose leases have yet to be looked at out of turn
        self._known_s = 0.0  # when others last heard of this worker
        self._reconnected: bool | None = None  # and whether it is another server; not yet looked after
        self._draining = False
        registry.on_reconnect(self._reconnect)

    @property
    def node_id(self) -> str:
        return self._node.id

    @property
    def dirty_leases(self) -> int:
        """Open connections whose lease has yet to be written."""
        return self.engine.dirty_leases if self._repairing else 0

    async def start(self) -> None:
        await self._announce()
        self.running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        self.running.cancel()
        await asyncio.wait([self.running])
        try:
            await self._registry.withdraw(self._node.id)
        except RegistryUnavailable:
            pass  # its key expires by itself

    def drain(self) -> None:
        """The next renewal of the node key says so."""
        self._draining = True

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._every(self._settings.node_ttl_s / 5, self._stay_known))
            loops.create_task(self._every(1.0, self._renew_some))
            loops.create_task(self._every(1.0 / STEPS_A_SECOND, self._repair_some))

    async def _every(self, period_s: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        due_s = time.monotonic()
        while True:
            try:
                await work()
            except RegistryUnavailable:
                pass  # told by `registry_up` and /readyz; what was to be written is dirty or comes round again
            now_s = time.monotonic()
            due_s = max(due_s + period_s, now_s + 0.01)  # a step that is late is not a step less
            await asyncio.sleep(due_s - now_s)

    # ---- the node

    async def _announce(self) -> None:
        now_s = self._loop.time()
        try:
            await self._registry.announce(self._described())
        except RegistryUnavailable:
            return  # the next renewal finds no key
        self._known_s = now_s

    def _described(self) -> Node:
        state = NodeState.REPAIRING if self._repairing else NodeState.DRAINING if self._draining else NodeState.UP
        return msgspec.structs.replace(
            self._node, state=state, connections=self.engine.connections, dirty_leases=self.dirty_leases
        )

    async def _stay_known(self) -> None:
        now_s = self._loop.time()
        if not await self._registry.renew_node(self._described()):
            await self._come_back()
            return
        if now_s - self._known_s > self._settings.node_ttl_s / 2:
            self._doubted = self.engine.slots
        self._known_s = now_s

    async def _come_back(self) -> None:
        """Nobody may be called offline before it is known that no lease was lost."""
        event(_log, "this worker was taken for dead: its leases are checked", connections=self.engine.connections)
        self._doubted = self.engine.slots
        self._begin_repair()
        await self._announce()

    # ---- renewal

    async def _renew_some(self) -> None:
        """As many slots as bring the cursor once around within half the TTL."""
        visits = round(self.engine.slots / (self._settings.lease_ttl_s / 2) + 0.5)
        await self._renew_or_repair(self.engine.renewals(visits))

    async def _renew_or_repair(self, found: Sequence[Found]) -> None:
        """One that is missing is a sign that more are, but while they are being written.

        While they are only being looked at, all are written instead: to look on first would take as long again.
        """
        written = self._repairing and not self._doubted
        if await self._renew(found) and not written:
            await self._repair_all("some are missing")

    async def _renew(self, found: Sequence[Found]) -> int:
        """How many of these leases were missing; those are dirty now."""
        if not found or not self._registry.up:
            return 0
        missing = 0
        held: list[tuple[int, Lease]] = []
        try:
            answers = await self._registry.renew([self.lease(each) for each in found])
        except RegistryUnavailable:
            for each in found:  # the cursor has passed them: the next visit might come after their end
                self.mark_dirty(each[0])
            raise
        for each, answer in zip(found, answers, strict=True):
            if answer is Renewal.MISSING and self.engine.is_open(each[0]):
                missing += 1
                self.mark_dirty(each[0])
            elif isinstance(answer, Lease):
                held.append((each[0], answer))
            elif isinstance(answer, RegistryUnavailable):
                self.mark_dirty(each[0])
        await self.yield_to(held)
        return missing

    def lease(self, found: Found) -> Lease:
        _, client_id, user_id, epoch = found
        return Lease(client_id.decode(), self._node.id, epoch, user_id.decode())

    async def yield_to(self, held: Sequence[tuple[int, Lease]]) -> None:
        """The registry names other leases for these connections: this very one's, by a newer epoch, or another's."""
        elsewhere: list[tuple[int, Lease]] = []
        for handle, holder in held:
            if holder.node_id != self._node.id:
                elsewhere.append((handle, holder))
            elif self.engine.find(holder.client_id.encode()) == handle:
                self.engine.set_epoch(handle, holder.epoch)
                self.written(handle, holder)
            else:
                self._close_replaced(handle)
        if elsewhere:
            await self._yield_to_the_living(elsewhere)

    async def _yield_to_the_living(self, held: Sequence[tuple[int, Lease]]) -> None:
        """A worker that was only thought to be dead writes its lease again, and by its epoch that one holds then."""
        try:
            alive = await self._registry.find_nodes({holder.node_id for _, holder in held})
            dead = [holder for _, holder in held if holder.node_id not in alive]
            removed = await self._registry.remove_many(dead)
        except RegistryUnavailable:
            for handle, _ in held:  # asked again
                self.mark_dirty(handle)
            return
        for handle, holder in held:
            if holder.node_id in alive:
                self._close_replaced(handle)
            elif self.engine.is_open(handle):
                self.mark_dirty(handle)
        for holder, gone in zip(dead, removed, strict=True):
            if gone is True and self._presence is not None:
                self._presence.expired(holder)

    def _close_replaced(self, handle: int) -> None:
        self.engine.close(handle, REPLACED, reason_of(REPLACED))

    def written(self, handle: int, lease: Lease) -> None:
        """The registry holds this lease of the connection now."""
        if self._presence is not None and self.engine.is_open(handle):
            self._presence.connected(lease)

    # ---- repair

    def mark_dirty(self, handle: int) -> None:
        """This open connection's lease has to be written (again)."""
        self.engine.set_dirty(handle, True)
        self._repairing = True

    def _reconnect(self, changed: bool) -> None:
        self._reconnected = changed or bool(self._reconnected)

    async def _look_after_reconnect(self) -> None:
        changed, self._reconnected = self._reconnected, None
        if changed:
            await self._repair_all("it is another server or has another role")
            return
        await self._stay_known()
        if await self._renew(self._sample()):
            await self._repair_all("it has lost some")

    def _sample(self) -> list[Found]:
        found: list[Found] = []
        passed = 0
        while len(found) < SAMPLE and passed < self.engine.slots:
            found += self.engine.renewals(SAMPLE)
            passed += SAMPLE
        return found

    def _begin_repair(self) -> None:
        """Not over before every other worker had the time to notice what this one did, and to say so."""
        self._repairing = True
        self._repair_until_s = self._loop.time() + self._settings.node_ttl_s / 2

    async def _repair_all(self, reason: str) -> None:
        """The server may know none of our leases."""
        self._begin_repair()
        self._doubted = 0
        connections = self.engine.set_all_dirty()
        event(_log, "all leases are written to the registry again", reason=reason, leases=connections)
        await self._announce()

    async def _repair_some(self) -> None:
        if not self._registry.up:
            return
        if self._reconnected is not None:
            await self._look_after_reconnect()
        self._allowance = self._allowance % 1 + self._settings.repair_rate / STEPS_A_SECOND
        if self._repairing and self._allowance >= 1:
            await self._repair_dirty()
        looked_at = min(self._doubted, int(self._allowance))
        if looked_at:
            self._doubted -= looked_at
            await self._renew_or_repair(self.engine.renewals(looked_at))

    async def _repair_dirty(self) -> None:
        found = self.engine.dirty(int(self._allowance))
        self._allowance -= len(found)
        if found:
            await asyncio.gather(*(self._repair(each) for each in found))
        elif not self._doubted and self._loop.time() >= self._repair_until_s:
            self._repairing = False
            await self._stay_known()  # and not _announce(): who removed leases of ours has removed the key before

    async def _repair(self, found: Found) -> None:
        handle = found[0]
        lease = self.lease(found)
        self.engine.set_dirty(handle, False)
        try:
            holder = await self._registry.register_late(lease)
        except RegistryUnavailable:
            self.engine.set_dirty(handle, True)
            return
        if holder is None:
            self.written(handle, lease)
        else:
            await self.yield_to([(handle, holder)])
