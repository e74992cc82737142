"""The registry on a Redis-like server. Keys, state machine and commands: docs/registry.md.

Rules. A lease is one key and changes only inside one of four scripts, each of them over that one key. What says
where to look is kept beside them: users.py, nodes.py, marks.py. Nothing is kept per client here. Whatever the server
says that is not an answer becomes RegistryUnavailable; data under our keys that is not ours counts as absent
(answers.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from importlib.resources import files
from typing import Any

from zpush._fast.lease import keys_of, read_all
from zpush.config.settings import Registry as Settings
from zpush.errors import RegistryUnavailable
from zpush.registry.answers import Foreign, checked
from zpush.registry.base import IN_TIME_MS, Lease, Node, NodeState, Registration, Renewal, Server, Stored
from zpush.registry.clock import ServerClock
from zpush.registry.lease import own, parse
from zpush.registry.marks import ShardMarks
from zpush.registry.nodes import NodeDirectory
from zpush.registry.users import UserIndex
from zpush.store import Script, Store


class RedisRegistry:
    """Owns its store: start and stop are the store's."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._lease = f"{settings.prefix}:lease:"
        self._lease_ttl_ms = round(settings.lease_ttl_s * 1000)
        self._reads_replicas = settings.read_from == "replica"
        self._register = _script(store, "register")
        self._register_late = _script(store, "register_late")
        self._renew = _script(store, "renew")
        self._remove = _script(store, "remove")
        self._clock = ServerClock(store)
        self._foreign = Foreign()
        self._users = UserIndex(store, _script(store, "enter"), _script(store, "entered"), settings, self._foreign)
        self._nodes = NodeDirectory(store, settings, self._foreign)
        self._marks = ShardMarks(store, settings)
        self._refusal = ""
        self._callbacks: list[Callable[[bool], None]] = []
        self._started = False
        store.on_connect(self._connected)

    @property
    def up(self) -> bool:
        return self._store.up

    @property
    def reason(self) -> str:
        """Why it is not up, for /readyz; "" where it is."""
        return self._store.reason

    @property
    def refusal(self) -> str:
        """Why this node's last renewal was refused although no server is away, for /readyz: one takes no writes."""
        return "" if self._store.reason else self._refusal

    @property
    def foreign(self) -> int:
        """Values found under our keys that are not ours."""
        return self._foreign.count

    @property
    def crowded(self) -> int:
        """Clients that left their user's set because there were registry.user_devices newer ones."""
        return self._users.crowded

    async def start(self) -> None:
        """Returns after the first attempt to connect: look at `up`."""
        await self._store.start()
        self._started = True

    async def stop(self) -> None:
        await self._store.stop()

    def on_reconnect(self, callback: Callable[[bool], None]) -> None:
        """Called too where the server was away at start() and is there now."""
        self._callbacks.append(callback)

    def _connected(self, changed: bool) -> None:
        if self._started:
            for callback in self._callbacks:
                callback(changed)

    # Leases

    async def register_many(self, leases: Sequence[Lease]) -> list[Registration | Lease | RegistryUnavailable]:
        replies = await self._write(self._register, leases, self._clock.in_ms(IN_TIME_MS))
        return [self._registered(lease, reply) for lease, reply in zip(leases, replies, strict=True)]

    def _registered(self, lease: Lease, reply: Any) -> Registration | Lease | RegistryUnavailable:
        try:
            epoch, stored = checked(reply)
        except RegistryUnavailable as e:
            return e
        held = None if stored is None else self._parse(lease.client_id, stored)
        return held if held is not None and not epoch else Registration(epoch, held)

    async def register_late(self, lease: Lease) -> Lease | None:
        [reply] = await self._write(self._register_late, [lease])
        stored = checked(reply)
        return None if stored is None else self._parse(lease.client_id, stored)

    async def register(self, client_id: str, user_id: str, node_id: str, now_ms: int) -> Registration | Lease:
        [answer] = await self.register_many([Lease(client_id, node_id, now_ms, user_id)])
        if isinstance(answer, RegistryUnavailable):
            raise answer
        return answer

    async def _write(self, script: Script, leases: Sequence[Lease], *more: int) -> list[Any]:
        """The script's replies, in order; an error, too, where a client could not be entered into its user's set."""
        calls: list[tuple[str | int, ...]] = [
            (self._lease + each.client_id, each.epoch, each.node_id, each.user_id, self._lease_ttl_ms, *more)
            for each in leases
        ]
        return await self._users.with_entries(leases, self._store.eval_many(script, calls))

    async def renew(self, leases: Sequence[Lease]) -> list[Renewal | Lease | RegistryUnavailable]:
        calls = [(self._lease + lease.client_id, own(lease), self._lease_ttl_ms) for lease in leases]
        replies = await self._users.renewed(leases, self._store.eval_many(self._renew, calls))
        return [self._renewal(lease, reply) for lease, reply in zip(leases, replies, strict=True)]

    def _renewal(self, lease: Lease, reply: Any) -> Renewal | Lease | RegistryUnavailable:
        if reply == 1:
            return Renewal.EXTENDED
        if reply == 0:
            return Renewal.MISSING
        if isinstance(reply, Exception):
            return RegistryUnavailable(str(reply))
        held = self._parse(lease.client_id, reply)
        if held is None or held.epoch < lease.epoch:  # older: a failover lost ours, which has to be written again
            return Renewal.MISSING
        return held

    async def remove(self, lease: Lease) -> bool:
        [removed] = await self.remove_many([lease])
        if isinstance(removed, RegistryUnavailable):
            raise removed
        return removed

    async def remove_many(self, leases: Sequence[Lease]) -> list[bool | RegistryUnavailable]:
        calls = [(self._lease + lease.client_id, own(lease)) for lease in leases]
        return [_removed(reply) for reply in await self._store.eval_many(self._remove, calls)]

    @property
    def reads_replicas(self) -> bool:
        return self._reads_replicas

    async def look_up(self, client_ids: Sequence[str], *, fresh: bool = False) -> list[Stored]:
        old = self._reads_replicas and not fresh
        values = await self._store.mget(keys_of(self._lease, client_ids), replica=old)
        if old:
            await self._confirm(client_ids, values)
        return read_all(client_ids, values, self._of_no_usual_form)

    async def _confirm(self, client_ids: Sequence[str], values: list[Any]) -> None:
        """A replica that has nothing may be behind: the primaries fill its gaps."""
        gaps = [place for place, value in enumerate(values) if not isinstance(value, bytes)]
        filled = await self._store.mget([self._lease + client_ids[place] for place in gaps])
        for place, value in zip(gaps, filled, strict=True):
            values[place] = value

    def _of_no_usual_form(self, client_id: str, value: Any) -> Stored:
        return RegistryUnavailable(str(value)) if isinstance(value, Exception) else self._parse(client_id, value)

    def _parse(self, client_id: str, value: bytes) -> Lease | None:
        lease = parse(client_id, value)
        if lease is None:
            self._foreign.note(self._lease + client_id)
        return lease

    async def user_clients(self, user_id: str) -> dict[str, Stored]:
        client_ids = await self._users.clients(user_id)
        found = zip(client_ids, await self.look_up(client_ids, fresh=True), strict=True)
        return {c: stored for c, stored in found if not isinstance(stored, Lease) or stored.user_id == user_id}

    # Nodes

    async def announce(self, node: Node) -> None:
        await self._nodes.announce(node)
        if node.state is NodeState.REPAIRING:
            await self._marks.write()

    async def renew_node(self, node: Node) -> bool:
        self._clock.ask()
        try:
            nothing_lost = await self._nodes.renew(node) and await self._marks.unchanged()
        except RegistryUnavailable as e:
            self._refusal = str(e)
            raise
        self._refusal = ""
        return nothing_lost

    async def withdraw(self, node_id: str) -> None:
        await self._nodes.withdraw(node_id)

    async def nodes(self) -> dict[str, Node]:
        return await self._nodes.all()

    async def find_nodes(self, node_ids: Collection[str]) -> dict[str, Node]:
        return await self._nodes.find(node_ids)

    async def server(self) -> Server:
        role, replicas = await self._nodes.role()
        return Server(self._store.where, role, replicas, self._store.reason)

    async def whole(self) -> bool:
        """Marks first: who writes one has said before that he repairs."""
        return await self._marks.all_there() and await self._nodes.whole()


def _removed(reply: Any) -> bool | RegistryUnavailable:
    return RegistryUnavailable(str(reply)) if isinstance(reply, Exception) else bool(reply)


def _script(store: Store, name: str) -> Script:
    return store.script(files("zpush.registry").joinpath(f"{name}.lua").read_text("utf-8"))
