"""Workers in one test process: real sockets and peers, a table instead of an engine, a registry that obeys the test."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import msgspec

from tests.support import free_port
from zpush._fast.job import Job
from zpush.delivery.base import Entry, Settled
from zpush.delivery.peers import Peers, PeerServer
from zpush.delivery.router import Router
from zpush.errors import PeerUnreachable, RegistryUnavailable
from zpush.protocol.message import Message, Outcome, Priority
from zpush.registry.base import Lease, Node, NodeState, Registration, Renewal, Server, Stored

SECRET = b"a shared secret of the test's own"
BACKOFF_S = (0.01, 0.02)  # a router's, so that tests are quick


class Table:
    """A Local: what it holds, what it got in order, and how clients answer (DELIVERED where nothing is said)."""

    def __init__(self, *clients: str) -> None:
        self.clients = set(clients)
        self.got: list[tuple[str, str]] = []  # (client id, message id)
        self.calls: list[list[str]] = []  # client ids by deliver() call
        self.answers: dict[str, Outcome] = {}
        self.waiting: list[tuple[str, str, int, Callable[[Settled], None]]] = []  # client, id, index, settled
        self.broadcasts: list[tuple[str, bytes, int]] = []
        self.counting: asyncio.Future[dict[int, int]] | None = None  # set: broadcasts stay under way
        self.closed: list[tuple[str, int, int]] = []

    def holds(self, client_id: str) -> bool:
        return client_id in self.clients

    def deliver(self, entries: Sequence[Entry], settled: Callable[[Settled], None]) -> bytes:
        self.calls.append([entry.client_id for entry in entries])
        return bytes(self._one(index, entry, settled) for index, entry in enumerate(entries))

    def _one(self, index: int, entry: Entry, settled: Callable[[Settled], None]) -> int:
        if entry.client_id not in self.clients:
            return Outcome.NOT_HERE
        outcome = self.answers.get(entry.client_id, Outcome.DELIVERED)
        if outcome is Outcome.PENDING:
            self.waiting.append((entry.client_id, entry.id, index, settled))
        if outcome in (Outcome.PENDING, Outcome.DELIVERED):
            self.got.append((entry.client_id, entry.id))
        return outcome

    def settle(self, outcome: Outcome = Outcome.DELIVERED) -> None:
        """Settles what is PENDING, each with a call of its own."""
        waiting, self.waiting = self.waiting, []
        for _, _, index, settled in waiting:
            settled([(index, int(outcome))])

    def broadcast(self, id: str, payload: bytes, kind: int) -> asyncio.Future[dict[int, int]]:
        self.broadcasts.append((id, payload, kind))
        if self.counting is not None:
            return self.counting
        future: asyncio.Future[dict[int, int]] = asyncio.get_running_loop().create_future()
        future.set_result({int(Outcome.DELIVERED): len(self.clients)})
        return future

    def close_client(self, client_id: str, epoch: int, code: int) -> bool:
        self.closed.append((client_id, epoch, code))
        return client_id in self.clients

    def ids(self, client_id: str) -> list[str]:
        return [id for client, id in self.got if client == client_id]


class Box:
    """A worker: its table, its internal port, its entry among the nodes."""

    def __init__(
        self, name: str, *clients: str, region: str = "local", secret: bytes = SECRET, hello_timeout_s: float = 10.0
    ) -> None:
        self.table = Table(*clients)
        self.server = PeerServer(self.table, secret, name, hello_timeout_s=hello_timeout_s)
        self.node = Node(name, "", region, NodeState.UP)
        self._listener: asyncio.Server | None = None

    async def listen(self, port: int = 0) -> Box:
        """On a free port, or on the one that another box left."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port or free_port()))
        self._listener = await asyncio.get_running_loop().create_server(self.server.protocol_factory, sock=sock)
        host, port = sock.getsockname()
        self.node = msgspec.structs.replace(self.node, address=f"{host}:{port}")
        return self

    @property
    def port(self) -> int:
        return int(self.node.address.rpartition(":")[2])

    async def die(self) -> None:
        """Nobody listens any more; connections end."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.server.close()
        await asyncio.sleep(0)


class Memory:
    """A Registry in memory. away: calls fail. gate: look-ups wait for it, and answer what is true after it."""

    def __init__(self) -> None:
        self.leases: dict[str, Lease] = {}
        self.live: dict[str, Node] = {}
        self.away = False
        self.reads_replicas = False
        self.old: dict[str, Lease] = {}  # what replicas have, if they are read
        self.shards_away: set[str] = set()  # clients whose shard is away; "nodes": that of the nodes
        self.fresh_look_ups: list[list[str]] = []  # those that no replica may answer
        self.gate: asyncio.Event | None = None
        self.after_look_up: Callable[[], None] | None = None  # runs when a look-up's answer is fixed, not yet given
        self.look_ups: list[list[str]] = []
        self.node_reads = 0
        self.entries: dict[str, list[str]] = {}  # a user's clients, with a lease or without
        self.found_nodes: list[list[str]] = []  # asked for by name
        self.whole_reads = 0
        self.lost = False  # it has just lost everything, and no worker has noticed
        self.removed: list[Lease] = []
        self.withdrawn: list[str] = []
        self._callbacks: list[Callable[[bool], None]] = []

    # ---- the test's side

    def put(self, client_id: str, box: Box | str, epoch: int = 1) -> None:
        node_id = box if isinstance(box, str) else box.node.id
        self.leases[client_id] = Lease(client_id, node_id, epoch)

    def add(self, *boxes: Box) -> None:
        """The boxes are live, and so are leases for what their tables hold."""
        for box in boxes:
            self.live[box.node.id] = box.node
            for client_id in box.table.clients:
                self.put(client_id, box)

    def say(self, box: Box, state: NodeState) -> None:
        self.live[box.node.id] = msgspec.structs.replace(box.node, state=state)

    def reconnect(self) -> None:
        for callback in self._callbacks:
            callback(True)

    # ---- Registry

    @property
    def up(self) -> bool:
        return not self.away

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def on_reconnect(self, callback: Callable[[bool], None]) -> None:
        self._callbacks.append(callback)

    async def register(self, client_id: str, user_id: str, node_id: str, now_ms: int) -> Registration:
        self._check()
        replaced = self.leases.get(client_id)
        epoch = max(now_ms, replaced.epoch + 1 if replaced else 0)
        self.leases[client_id] = Lease(client_id, node_id, epoch, user_id)
        return Registration(epoch, replaced)

    async def register_many(self, leases: Sequence[Lease]) -> list[Registration | Lease | RegistryUnavailable]:
        return [await self.register(each.client_id, each.user_id, each.node_id, each.epoch) for each in leases]

    async def register_late(self, lease: Lease) -> Lease | None:
        self._check()
        held = self.leases.get(lease.client_id)
        if held is not None and held.epoch > lease.epoch:
            return held
        self.leases[lease.client_id] = lease
        return None

    async def renew(self, leases: Sequence[Lease]) -> list[Renewal | Lease]:
        self._check()
        return [Renewal.EXTENDED if self.leases.get(le.client_id) == le else Renewal.MISSING for le in leases]

    async def remove(self, lease: Lease) -> bool:
        self._check()
        self.removed.append(lease)
        if self.leases.get(lease.client_id) != lease:
            return False
        del self.leases[lease.client_id]
        return True

    async def remove_many(self, leases: Sequence[Lease]) -> list[bool | RegistryUnavailable]:
        answers: list[bool | RegistryUnavailable] = []
        for lease in leases:
            try:
                self._check(lease.client_id)
                answers.append(await self.remove(lease))
            except RegistryUnavailable as e:
                answers.append(e)
        return answers

    async def look_up(self, client_ids: Sequence[str], *, fresh: bool = False) -> list[Stored]:
        self.look_ups.append(list(client_ids))
        if fresh:
            self.fresh_look_ups.append(list(client_ids))
        if self.gate is not None:
            await self.gate.wait()
        self._check()
        found = [self._stored(client_id, fresh) for client_id in client_ids]
        if self.after_look_up is not None:
            self.after_look_up()
        return found

    def _stored(self, client_id: str, fresh: bool) -> Stored:
        if client_id in self.shards_away:
            return RegistryUnavailable("this shard is away")
        if self.reads_replicas and not fresh:
            return self.old.get(client_id, self.leases.get(client_id))
        return self.leases.get(client_id)

    async def user_clients(self, user_id: str) -> dict[str, Stored]:
        self._check()
        held = [lease.client_id for lease in self.leases.values() if lease.user_id == user_id]
        found: dict[str, Stored] = dict.fromkeys(self.entries.get(user_id, []))
        return {**found, **{client_id: self._stored(client_id, True) for client_id in held}}

    async def announce(self, node: Node) -> None:
        self._check()
        self.live[node.id] = node

    async def renew_node(self, node: Node) -> bool:
        self._check()
        known = node.id in self.live
        if known:
            self.live[node.id] = node
        return known

    async def withdraw(self, node_id: str) -> None:
        self._check()
        self.withdrawn.append(node_id)
        self.live.pop(node_id, None)

    async def nodes(self) -> dict[str, Node]:
        self.node_reads += 1
        self._check("nodes")
        return dict(self.live)

    async def find_nodes(self, node_ids: Collection[str]) -> dict[str, Node]:
        self.found_nodes.append(sorted(node_ids))
        self._check("nodes")
        return {node_id: self.live[node_id] for node_id in node_ids if node_id in self.live}

    async def server(self) -> Server:
        self._check()
        return Server("memory", "master", 0, "")

    async def whole(self) -> bool:
        self.whole_reads += 1
        self._check("nodes")
        return not self.lost and all(node.state is not NodeState.REPAIRING for node in self.live.values())

    def _check(self, shard: str = "") -> None:
        if self.away or shard in self.shards_away:
            raise RegistryUnavailable("the test took the registry away")


class TestedJob(Job):
    """and_then: what its settling leads to."""

    def __init__(self, message: Message, client_id: str, deadline_s: float, outcomes: Outcomes) -> None:
        super().__init__(message, client_id, deadline_s)
        self.outcomes = outcomes
        self.and_then: Callable[[], None] | None = None

    def settle(self, outcome: Outcome, node_id: str) -> None:
        self.outcomes.settle(self.message.id, outcome)
        if self.and_then is not None:
            self.and_then()


@dataclass
class Outcomes:
    """Collects outcomes of jobs by message id; twice is an error at once."""

    by_id: dict[str, Outcome] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def job(
        self,
        client_id: str,
        id: str,
        priority: Priority = Priority.NORMAL,
        expires_ms: int = 0,
        deadline_s: float = 0.0,
        payload: bytes = b"hello",
    ) -> TestedJob:
        queued_ms = time.time_ns() // 1_000_000
        message = Message(id, client_id, payload, priority=priority, expires_ms=expires_ms, queued_ms=queued_ms)
        return TestedJob(message, client_id, deadline_s, self)

    def settle(self, id: str, outcome: Outcome) -> None:
        assert id not in self.by_id, f"{id} is settled twice: {self.by_id[id].label}, {outcome.label}"
        assert outcome not in (Outcome.PENDING, Outcome.NOT_HERE)
        self.by_id[id] = outcome
        self.changed.set()

    def jobs(self, *pairs: tuple[str, str]) -> list[Job]:
        return [self.job(client_id, id) for client_id, id in pairs]

    async def of(self, *ids: str, timeout_s: float = 30.0) -> list[Outcome]:
        """The outcomes of these, awaited."""
        async with asyncio.timeout(timeout_s):
            while not all(id in self.by_id for id in ids):
                self.changed.clear()
                await self.changed.wait()
        return [self.by_id[id] for id in ids]


class Answers:
    """A Delivery that remembers, and lets the test await."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.first: asyncio.Future[list[int]] = loop.create_future()
        self.error: asyncio.Future[PeerUnreachable] = loop.create_future()
        self.later: list[tuple[int, int]] = []
        self.more = asyncio.Event()

    def answered(self, outcomes: bytes) -> None:
        self.first.set_result(list(outcomes))

    def settled(self, settled: Settled) -> None:
        self.later += settled
        self.more.set()

    def failed(self, error: PeerUnreachable) -> None:
        self.error.set_result(error)


def entries(*pairs: tuple[str, str]) -> list[Entry]:
    return [Entry(client_id, id, b"hello", 1) for client_id, id in pairs]


def caller(**options: float) -> Peers:
    return Peers(SECRET, "caller", **options)


class World:
    """A processor's router (no own clients), or a worker's; two boxes; a registry."""

    def __init__(self) -> None:
        self.registry = Memory()
        self.peers = caller()
        self.out = Outcomes()
        self.boxes: list[Box] = []
        self.routers: list[Router] = []

    async def box(self, name: str, *clients: str, region: str = "local") -> Box:
        box = await Box(name, *clients, region=region).listen()
        self.boxes.append(box)
        self.registry.add(box)
        return box

    def router(
        self,
        own: Box | None = None,
        retry_s: float = 5.0,
        node_ttl_s: float = 0.2,
        backoff_s: tuple[float, ...] = BACKOFF_S,
        on_dead: Callable[[Lease], None] | None = None,
        max_age_s: float = 60.0,
    ) -> Router:
        made = Router(
            self.registry,
            self.peers,
            None if own is None else own.table,
            "processor" if own is None else own.node.id,
            "local",
            retry_s,
            node_ttl_s,
            backoff_s,
            recheck_s=0.01,
            on_dead=on_dead,
            max_age_s=max_age_s,
        )
        self.routers.append(made)
        return made

    async def stop(self) -> None:
        for made in self.routers:
            await made.stop()
        await self.peers.stop()
        for box in self.boxes:
            await box.die()
