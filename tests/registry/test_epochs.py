"""Random interleavings of everything that can happen to one client, over a real server.

The model is the workers: which sockets each of them has open for the client, what it has not told the registry
yet, and the peer closes that are still on their way. A worker's own registry calls arrive in the order in which
it made them (one connection), but for what the server still finds in its sockets when it has stood still; all else
arrives whenever it likes. Clocks differ, and jump. Workers stand still, or die. Writes are lost.
However it went: once all is told, one socket is left at most, it is the newest, and the lease names it. At every moment
the client can be found by the user that its lease names, and by no other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.registry.support import registry_at
from tests.store.topologies import Topology
from zpush.registry.base import Lease, Registration, Renewal
from zpush.registry.redis import RedisRegistry
from zpush.store import Store

NODES = ("aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc")
USERS = ("ann", "bob")
nodes = st.sampled_from(NODES)
users = st.sampled_from(USERS)


class Server(NamedTuple):
    runner: asyncio.Runner
    registry: RedisRegistry
    store: Store

    clock: Clock

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(call)

    async def register_late_in_the_day(self, lease: Lease) -> Registration | Lease:
        """register(), carried out long after it was sent."""
        self.clock.until_ms = 1
        try:
            return await self.registry.register(lease.client_id, lease.user_id, lease.node_id, lease.epoch)
        finally:
            self.clock.until_ms = 0


class Clock:
    """What the registry knows of the server's: 0 is nothing, so that a command was just sent; 1 is long ago."""

    until_ms = 0

    def in_ms(self, milliseconds: int) -> int:
        return self.until_ms

    def ask(self) -> None: ...


class Close(NamedTuple):
    """A peer close on its way: whoever holds an epoch up to this one at that node is closed."""

    node_id: str
    epoch: int


class Workers(RuleBasedStateMachine):
    server: Server
    clients = 0

    @initialize(skewed=st.booleans(), skew=st.lists(st.integers(-5, 5), min_size=3, max_size=3))
    def begin(self, skewed: bool, skew: list[int]) -> None:
        Workers.clients += 1
        self.client_id = f"client {Workers.clients}"
        self.key = f"t:lease:{self.client_id}"
        self.now_ms = 1_000_000
        self.skewed = skewed
        self.skew = dict(zip(NODES, skew if skewed else [0, 0, 0], strict=True))
        self.open: dict[str, Lease] = {}  # the engine holds one connection per client: node → its lease
        self.untold: dict[str, deque[Lease]] = {n: deque() for n in NODES}  # removals that a worker still has to send
        self.late: set[str] = set()  # nodes whose lease is not written yet
        self.closes: list[Close] = []
        self.strays: list[Lease] = []  # registrations that the server has in a socket, whose workers may have given up
        self.paused: set[str] = set()
        self.dead: set[str] = set()
        self.saved: Lease | None = None
        self.rolled_back = False
        self.outlived = False  # a registration was carried out after its connection had gone

    def own_now(self, node_id: str) -> int:
        """A worker's clock, and never a time that is not above the epoch it holds for this client itself.

        Without skew no two handshakes are of one millisecond: then nothing tells which is the newer one.
        """
        self.now_ms += 1
        floor = self.open[node_id].epoch + 1 if node_id in self.open else 0
        return max(self.now_ms + self.skew[node_id], floor)

    def let_go(self, node_id: str) -> None:
        self.late.discard(node_id)
        self.untold[node_id].append(self.open.pop(node_id))

    def yield_to(self, holder: Lease, node_id: str) -> None:
        """A lease of the worker's own is an earlier connection's: the one that is open now takes its epoch over.

        One of a worker whose key is gone is removed, and its own written with its own epoch.
        """
        if holder.node_id == node_id:
            self.open[node_id] = holder
        elif holder.node_id in self.paused | self.dead:
            assert self.server.run(self.server.registry.remove(holder))
            self.late.add(node_id)
        else:
            self.let_go(node_id)

    # What happens

    @rule(passed_ms=st.integers(1, 8))
    def time_passes(self, passed_ms: int) -> None:
        self.now_ms += passed_ms

    @precondition(lambda self: self.skewed)
    @rule(node_id=nodes, by_ms=st.sampled_from([-100_000, -20, 20, 100_000]))
    def a_clock_jumps(self, node_id: str, by_ms: int) -> None:
        self.skew[node_id] = max(-500_000, self.skew[node_id] + by_ms)

    @rule(node_id=nodes, user_id=users)
    def connects(self, node_id: str, user_id: str) -> None:
        if node_id in self.paused | self.dead:
            return
        self.tell_removals(node_id)
        stored, now_ms = self.stored(), self.own_now(node_id)
        got = self.server.run(self.server.registry.register(self.client_id, user_id, node_id, now_ms))
        assert got.replaced == stored
        assert got.epoch == max(now_ms, stored.epoch + 1 if stored else 0)
        self.late.discard(node_id)
        self.open[node_id] = Lease(self.client_id, node_id, got.epoch, user_id)
        self.replaces(got.replaced, node_id)

    def replaces(self, replaced: Lease | None, node_id: str) -> None:
        if replaced is not None and replaced.node_id != node_id:
            self.closes.append(Close(replaced.node_id, replaced.epoch))

    @rule(node_id=nodes, user_id=users, stands_still=st.booleans())
    def connects_while_the_registry_is_away(self, node_id: str, user_id: str, stands_still: bool) -> None:
        """stands_still: the server has the registration, and will carry it out some time."""
        if node_id in self.paused | self.dead:
            return
        self.open[node_id] = Lease(self.client_id, node_id, self.own_now(node_id), user_id)
        self.late.add(node_id)
        if stands_still and not self.skewed:  # such a one is judged by its worker's clock
            self.strays.append(self.open[node_id])

    @precondition(lambda self: self.strays)
    @rule(data=st.data(), heard=st.booleans())
    def a_stray_registration_is_carried_out(self, data: st.DataObject, heard: bool) -> None:
        """heard: its worker has not given up on it, and learns what came of it."""
        self.carry_out(self.strays.pop(data.draw(st.integers(0, len(self.strays) - 1))), heard)

    def carry_out(self, lease: Lease, heard: bool) -> None:
        stored = self.stored()
        got = self.server.run(self.server.register_late_in_the_day(lease))
        heard = heard and lease.node_id not in self.paused and self.open.get(lease.node_id) == lease
        if isinstance(got, Lease):
            assert got == stored and (got.epoch, got.node_id) > (lease.epoch, "")
            if heard:
                self.yield_to(got, lease.node_id)
        else:
            assert stored is None or stored.epoch < lease.epoch or stored == lease
            assert self.stored() == lease and got.replaced == stored
            self.outlived |= self.open.get(lease.node_id) != lease
            if heard:
                self.late.discard(lease.node_id)
                self.replaces(stored, lease.node_id)

    @rule(node_id=nodes)
    def stands_still(self, node_id: str) -> None:
        if node_id not in self.dead:
            self.paused.add(node_id)

    @precondition(lambda self: len(self.dead) < 2)
    @rule(node_id=nodes)
    def dies(self, node_id: str) -> None:
        """With its sockets. What it has not told is never told, but for what the server has in a socket already."""
        self.dead.add(node_id)
        self.paused.discard(node_id)
        self.open.pop(node_id, None)
        self.late.discard(node_id)
        self.untold[node_id].clear()

    @precondition(lambda self: self.paused)
    @rule(data=st.data())
    def goes_on(self, data: st.DataObject) -> None:
        """Its key has run out meanwhile: it looks at its leases before anything else comes of them."""
        node_id = data.draw(st.sampled_from(sorted(self.paused)))
        self.paused.remove(node_id)
        self.renews(node_id)
        assert node_id not in self.open or node_id in self.late or self.stored() == self.open[node_id]

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def disconnects(self, data: st.DataObject) -> None:
        node_id = data.draw(st.sampled_from(sorted(self.open)))
        if node_id not in self.paused:
            self.let_go(node_id)

    @rule(node_id=nodes)
    def tell_removals(self, node_id: str) -> None:
        while self.untold[node_id] and node_id not in self.paused:
            gone = self.untold[node_id].popleft()
            stored = self.stored()
            removed = self.server.run(self.server.registry.remove(gone))
            assert removed == (stored == gone)

    @rule(node_id=nodes)
    def registers_late_or_repairs(self, node_id: str) -> None:
        if node_id not in self.open or node_id in self.paused:
            return
        self.tell_removals(node_id)
        mine, stored = self.open[node_id], self.stored()
        held = self.server.run(self.server.registry.register_late(mine))
        if held is None:
            assert stored is None or stored.epoch < mine.epoch or stored == mine
            assert self.stored() == mine
        else:
            assert held == stored and held.epoch >= mine.epoch
            self.yield_to(held, node_id)
        if held is None or held.node_id == node_id:
            self.late.discard(node_id)

    @rule(node_id=nodes)
    def renews(self, node_id: str) -> None:
        if node_id not in self.open or node_id in self.late or node_id in self.paused:
            return
        self.tell_removals(node_id)
        mine, stored = self.open[node_id], self.stored()
        [answer] = self.server.run(self.server.registry.renew([mine]))
        assert (answer is Renewal.EXTENDED) == (stored == mine)
        if answer is Renewal.MISSING:
            assert stored is None or stored.epoch < mine.epoch
            self.late.add(node_id)
        elif isinstance(answer, Lease):
            assert answer == stored and answer.epoch >= mine.epoch
            self.yield_to(answer, node_id)

    @precondition(lambda self: self.closes)
    @rule(data=st.data())
    def a_peer_close_arrives(self, data: st.DataObject) -> None:
        self.deliver(self.closes.pop(data.draw(st.integers(0, len(self.closes) - 1))))

    def deliver(self, close: Close) -> None:
        held = self.open.get(close.node_id)
        if held is not None and held.epoch <= close.epoch and close.node_id not in self.paused:
            self.let_go(close.node_id)

    @rule()
    def the_server_loses_everything(self) -> None:
        self.restore(None)

    @rule()
    def a_replica_is_up_to_here(self) -> None:
        self.saved = self.stored()

    @rule()
    def a_failover_loses_what_came_after(self) -> None:
        self.restore(self.saved)
        self.rolled_back = True

    def restore(self, lease: Lease | None) -> None:
        self.server.run(self.command("DEL", self.key))
        for user_id in USERS:
            self.server.run(self.command("ZREM", f"t:user:{user_id}", self.client_id))
        if lease is not None:
            assert self.server.run(self.server.registry.register_late(lease)) is None
        self.late.update(self.open)

    # What must hold

    @invariant()
    def found_by_its_user_alone(self) -> None:
        stored = self.stored()
        for user_id in USERS if stored is not None else ():
            found = self.server.run(self.server.registry.user_clients(user_id))
            assert found.get(self.client_id) == (stored if user_id == stored.user_id else None)

    def stored(self) -> Lease | None:
        lease: Lease | None = self.server.run(self.server.registry.look_up([self.client_id]))[0]
        return lease

    async def command(self, *command: str | bytes) -> Any:
        return await self.server.store.call(self.key, *command)

    def teardown(self) -> None:
        if not hasattr(self, "open"):
            return
        for node_id in sorted(self.paused):
            self.paused.remove(node_id)
            self.renews(node_id)
        while self.strays:
            self.carry_out(self.strays.pop(), heard=False)
        while self.closes:
            self.deliver(self.closes.pop())
        before = dict(self.open)
        self.settle()
        stored = self.stored()
        assert len(self.open) <= 1
        for mine in self.open.values():
            assert stored == mine
            assert all(other.epoch <= mine.epoch for other in before.values())
        if before and not self.open:  # a lease that nobody holds stood in the way: only these two can leave one
            assert (self.rolled_back or self.outlived) and stored is not None and stored.node_id not in self.dead
        self.restore(None)

    def settle(self) -> None:
        """Everyone tells, renews and repairs, until nothing changes any more."""
        for _ in range(3):
            for node_id in NODES:
                self.tell_removals(node_id)
            for node_id in sorted(self.open, key=lambda n: self.open[n].epoch):
                self.renews(node_id)
                if node_id in self.late:
                    self.registers_late_or_repairs(node_id)


def test_whatever_happens_the_newest_holds_the_lease(topology: Topology) -> None:
    with asyncio.Runner() as runner:
        context = registry_at(topology.url)
        registry, store = runner.run(context.__aenter__())
        registry._clock = clock = Clock()  # type: ignore[assignment]
        Workers.server = Server(runner, registry, store, clock)
        try:
            run_state_machine_as_test(
                Workers,
                settings=settings(
                    max_examples=200,
                    stateful_step_count=30,
                    deadline=None,
                    database=None,
                    suppress_health_check=[HealthCheck.too_slow],
                ),
            )
        finally:
            runner.run(context.__aexit__(None, None, None))
