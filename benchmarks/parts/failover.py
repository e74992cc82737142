"""How long a lost primary is felt: until a queued message is delivered again, until all leases are there again.

Rules. Servers are real ones, those of the tests (tests/store/topologies.py), and decide by themselves; a dead primary
is noticed after DETECT_MS, which in practice is the operator's choice and most of the time that passes. A single server
is killed and started again, empty. A message is queued when the primary is dead, so a processor has to look its client
up. All leases are back when the worker has written all of them again and the primaries hold them. What a full worker
needs for that is measured with a played slab: 100,000 sockets would measure the load client.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import cast

import redis
import uvloop

from benchmarks.figures import Figure, Progress
from benchmarks.native import load
from benchmarks.rounds import IN_FLIGHT, WEB_SOCKET
from benchmarks.server import Server, serving
from benchmarks.valkey import Valkey, valkey
from tests.store.topologies import Cluster, Sentinels, Standalone, Topology
from zpush._fast.engine import Engine
from zpush.config.settings import Registry as Settings
from zpush.registry.base import Lease, Node, NodeState
from zpush.registry.redis import RedisRegistry
from zpush.server.leases import Found, LeaseKeeper
from zpush.store import Store

CLIENTS = 5_000
CLIENT = f"client-{0:013d}"
DETECT_MS = 1000
POLL_S = 0.02
PATIENCE_S = 120.0
WORKER = 100_000
AT_ONCE = 1000
ALL_BACK_S = 60.0
EPOCH = 1_700_000_000_000
TOPOLOGIES: dict[str, Callable[[], Topology]] = {
    "one server, restarted empty": Standalone,
    "Sentinels and a replica": Sentinels,
    "a cluster of 3 with replicas": Cluster,
}


def failover(progress: Progress) -> Iterator[Figure]:
    """From kill -9 of the registry's primary to the first message delivered, and to all leases back"""
    for name, make in TOPOLOGIES.items():
        progress.say(f"starting {name}")
        topology = make()
        try:
            topology.start()
            topology.detect_within(DETECT_MS)
            yield from _killed(name, topology, progress)
        finally:
            topology.stop()
    progress.say(f"a worker of {WORKER:,} clients writes all its leases again")
    with valkey() as server:
        seconds = uvloop.run(_all_back(server))
    yield Figure(f"{WORKER:,} leases of a worker, after FLUSHALL", seconds, "s", target=ALL_BACK_S)


def _killed(name: str, topology: Topology, progress: Progress) -> Iterator[Figure]:
    settings = (f"registry.url={topology.url}", "queue.url=embedded", "auth.mode=dev")
    with serving(*settings) as zpush, load() as clients:
        progress.say(f"{name}: {CLIENTS:,} clients connect")
        clients.ask("open", to=zpush.clients, path=WEB_SOCKET, count=CLIENTS, in_flight=IN_FLIGHT, saturate=1)
        _until(lambda: _leases(topology) >= CLIENTS, "all leases are written")
        progress.say(f"{name}: its primary is killed")
        primary, delivered = topology.primary_of(f"zpush:lease:{CLIENT}"), _delivered(zpush)
        began_s = time.monotonic()
        topology.kill(primary)
        if isinstance(topology, Standalone):
            topology.restart(primary)
        zpush.push([{"to": {"client": CLIENT}, "text": "are you there?"}])
        message_s, leases_s = _watched(zpush, topology, delivered, began_s)
    yield Figure(f"{name}: to a message", message_s, "s")
    yield Figure(f"{name}: to {CLIENTS:,} leases", leases_s, "s")


def _watched(zpush: Server, topology: Topology, delivered: float, began_s: float) -> tuple[float, float]:
    """When a message more is delivered, and when a repair has begun and ended."""
    message_s, repaired = 0.0, False
    while time.monotonic() < began_s + PATIENCE_S:
        repairing = zpush.metric("zpush_dirty_leases") > 0
        repaired |= repairing
        if not message_s and _delivered(zpush) > delivered:
            message_s = time.monotonic() - began_s
        if message_s and repaired and not repairing and _leases(topology) >= CLIENTS:
            return message_s, time.monotonic() - began_s
        time.sleep(POLL_S)
    raise RuntimeError(f"not within {PATIENCE_S:.0f} s: a message, and all leases")


def _delivered(zpush: Server) -> float:
    return zpush.total("zpush_messages_total", 'outcome="delivered"')


def _leases(topology: Topology) -> int:
    with contextlib.suppress(redis.RedisError, AssertionError, OSError):
        return sum(len(server.command("KEYS", "zpush:lease:*")) for server in topology.primaries() if server.running)
    return 0  # nobody knows, while a primary is being replaced


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"not within {PATIENCE_S:.0f} s: {what}")
        time.sleep(POLL_S)


class Slab:
    """What a LeaseKeeper asks of an engine with that many open connections, who all stay."""

    def __init__(self, size: int) -> None:
        self.slots = self.connections = size
        self._found: list[Found] = [
            (i + 1, f"client-{i:013d}".encode(), f"u{i:07d}".encode(), EPOCH) for i in range(size)
        ]
        self._dirty: dict[int, None] = {}  # handles, in the order in which they are to be written
        self._cursor = 0

    @property
    def dirty_leases(self) -> int:
        return len(self._dirty)

    def is_open(self, handle: int) -> bool:
        return True

    def set_dirty(self, handle: int, dirty: bool) -> None:
        if dirty:
            self._dirty[handle] = None
        else:
            self._dirty.pop(handle, None)

    def set_all_dirty(self) -> int:
        self._dirty = dict.fromkeys(range(1, self.slots + 1))
        return self.slots

    def dirty(self, limit: int) -> list[Found]:
        return [self._found[handle - 1] for handle, _ in zip(self._dirty, range(limit), strict=False)]

    def renewals(self, limit: int) -> list[Found]:
        begin, self._cursor = self._cursor, (self._cursor + limit) % self.slots
        return [each for each in self._found[begin : begin + limit] if each[0] not in self._dirty]

    def leases(self, node_id: str) -> list[Lease]:
        return [Lease(client.decode(), node_id, epoch, user.decode()) for _, client, user, epoch in self._found]


async def _all_back(server: Valkey) -> float:
    """Seconds from FLUSHALL to every lease and every user's entry, with the default settings."""
    settings = Settings()
    store = Store(server.url, name="benchmark")
    registry = RedisRegistry(store, settings)
    await registry.start()
    slab = Slab(WORKER)
    keeper = LeaseKeeper(registry, settings, Node("worker", "127.0.0.1:1", "local", NodeState.UP))
    keeper.engine = cast(Engine, slab)
    await keeper.start()
    leases = slab.leases(keeper.node_id)
    for at in range(0, WORKER, AT_ONCE):
        await registry.register_many(leases[at : at + AT_ONCE])
    began_s = time.monotonic()
    await store.call("", "FLUSHALL")
    while await store.call("", "DBSIZE") < 2 * WORKER or not await registry.whole():
        if time.monotonic() - began_s > PATIENCE_S:
            raise RuntimeError(f"{WORKER:,} leases are not back within {PATIENCE_S:.0f} s")
        await asyncio.sleep(POLL_S)
    seconds = time.monotonic() - began_s
    await keeper.stop()
    await registry.stop()
    return seconds
