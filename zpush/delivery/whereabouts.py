"""Where clients are: the registry's leases, read together with what is known of the live nodes.

Rules. A lease counts only if its node is live. "Nowhere" is said only on news that were read after the lease, and is
certain only while no lease may be missing that should be there: not while a worker writes its leases again, and
not within a node TTL of this process's own reconnect. Every question to the registry has a deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import TypeVar

from zpush._fast.lease import nodes_of
from zpush.delivery.live_nodes import REFRESH_S, LiveNodes
from zpush.errors import RegistryUnavailable
from zpush.registry.base import Lease, Node, Registry, Stored

LOOK_UP_TIMEOUT_S = 2.0
T = TypeVar("T")


class Whereabouts:
    """Every call raises RegistryUnavailable."""

    def __init__(self, registry: Registry, node_ttl_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._registry = registry
        self._node_ttl_s = node_ttl_s
        self._live = LiveNodes(registry)
        self._whole = False
        self._whole_s = float("-inf")  # when that was read
        self._grace_until_s = 0.0
        registry.on_reconnect(self._reconnected)

    def node(self, node_id: str) -> Node | None:
        """The node, if it is live as far as the last look-up knows."""
        return self._live.get(node_id)

    @property
    def certain(self) -> bool:
        """A client that the last look-up found without a live lease is connected nowhere."""
        return self._whole and self._loop.time() >= self._grace_until_s

    async def look_up(self, client_ids: Sequence[str], *, fresh: bool = False) -> list[Stored]:
        """What is stored, in order; node() then knows each lease's node, if it is live. fresh: from no replica."""
        return await _in_time(self._look_up(client_ids, fresh))

    async def devices(self, user_id: str) -> tuple[list[str], bool]:
        """The user's connected clients, and True; or False, and all that may be, while leases may be missing."""
        leases = await _in_time(self._user_leases(user_id))
        if not self.certain or any(isinstance(stored, RegistryUnavailable) for stored in leases.values()):
            return list(leases), False
        return [c for c, it in leases.items() if isinstance(it, Lease) and self.node(it.node_id) is not None], True

    async def locate(self, client_id: str) -> tuple[Lease, Node] | None:
        """The client's lease and its owner, both read now; None where it is certain that there is none that lives."""
        return await _in_time(self._locate(client_id))

    async def locate_user(self, user_id: str) -> list[tuple[Lease, Node]]:
        """The same for a user's clients: all of them, or none is named."""
        return await _in_time(self._locate_user(user_id))

    async def find(self, node_id: str) -> Node | None:
        """The node, if it lives. A dead one is asked for once a second: a box's clients come back all at once.

        The list is read here as well: in a process that looks nobody up, one that lived once would live for ever.
        """
        if self._live.stale:
            await _in_time(self._refresh())
        if self._live.get(node_id) is None and not self._live.lately_absent(node_id):
            await _in_time(self._live.find([node_id]))
        return self._live.get(node_id)

    async def bury(self, node_id: str) -> bool:
        """The node is dead, for everybody, before its key runs out. False where that was known."""
        known = not self._live.drop(node_id)
        if not known:
            await self._registry.withdraw(node_id)
        return not known

    def doubt(self, node_id: str) -> None:
        """The node does not answer: it counts as live again when the registry has been asked for it."""
        self._live.drop(node_id)

    async def remove(self, leases: Sequence[Lease]) -> list[bool | RegistryUnavailable]:
        """Those that are unchanged, all in one write; False for the others. Errors are in the list, never raised."""
        return await self._registry.remove_many(leases)

    async def _look_up(self, client_ids: Sequence[str], fresh: bool) -> list[Stored]:
        if self._live.stale:
            leases, _ = await asyncio.gather(self._registry.look_up(client_ids, fresh=fresh), self._refresh())
        else:
            leases = await self._registry.look_up(client_ids, fresh=fresh)
        await self._learn(leases)
        if self._registry.reads_replicas and not fresh:
            await self._confirm(client_ids, leases)
        return leases

    async def _refresh(self) -> None:
        try:
            await self._live.read()
        except RegistryUnavailable:
            pass  # what is known stays: an owner that is gone refuses

    async def _confirm(self, client_ids: Sequence[str], leases: list[Stored]) -> None:
        """A replica may name the node that the client was on before."""
        dead = [i for i, it in enumerate(leases) if isinstance(it, Lease) and self._live.get(it.node_id) is None]
        if dead:
            now = await self._registry.look_up([client_ids[i] for i in dead], fresh=True)
            await self._learn(now)
            for i, lease in zip(dead, now, strict=True):
                leases[i] = lease

    async def _user_leases(self, user_id: str) -> dict[str, Stored]:
        leases = await self._registry.user_clients(user_id)
        await self._learn(leases.values())
        return leases

    async def _locate(self, client_id: str) -> tuple[Lease, Node] | None:
        found = await self._owners(await self._registry.look_up([client_id], fresh=True))
        if not found:
            await self._be_certain()
        return found[0] if found else None

    async def _locate_user(self, user_id: str) -> list[tuple[Lease, Node]]:
        found = await self._owners((await self._registry.user_clients(user_id)).values())
        await self._be_certain()
        return found

    async def _owners(self, stored: Iterable[Stored]) -> list[tuple[Lease, Node]]:
        leases: list[Lease] = []
        for each in stored:
            if isinstance(each, RegistryUnavailable):
                raise each
            if each is not None:
                leases.append(each)
        nodes = await self._registry.find_nodes({lease.node_id for lease in leases})
        return [(lease, nodes[lease.node_id]) for lease in leases if lease.node_id in nodes]

    async def _be_certain(self) -> None:
        self._whole = await self._registry.whole()
        if not self.certain:
            raise RegistryUnavailable("leases may be missing: workers write them again, or will soon")

    async def _learn(self, leases: Iterable[Stored]) -> None:
        """What has to be known of these leases. A node announces itself before it holds any."""
        node_ids, all_there = nodes_of(leases)
        unknown = {node_id for node_id in node_ids if self._live.get(node_id) is None}
        try:
            if unknown:
                await self._live.find(unknown)
            if not all_there or unknown or self._loop.time() - self._whole_s >= REFRESH_S:
                began_s = self._loop.time()
                self._whole = await self._registry.whole()
                self._whole_s = began_s
        except RegistryUnavailable:  # of nodes: the leases of those that are known are good all the same
            self._whole = False

    def _reconnected(self, changed: bool) -> None:
        """Leases may not be back yet that were lost with the server, or written while it was away."""
        self._grace_until_s = self._loop.time() + self._node_ttl_s


async def _in_time(answer: Awaitable[T]) -> T:
    """A server that hangs must not hold up who asks."""
    try:
        async with asyncio.timeout(LOOK_UP_TIMEOUT_S):
            return await answer
    except TimeoutError:
        raise RegistryUnavailable(f"no answer within {LOOK_UP_TIMEOUT_S:g} s") from None
