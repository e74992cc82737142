"""The registry fails over, forgets or is cut off while messages flow: connected clients keep their sockets and miss
nothing, and nobody calls them offline.

Everything is real: Sentinels and a cluster that decide by themselves, and a server whose queue is elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from redis import RedisError

from tests.road.api import Api
from tests.road.devices import Connect, Device
from tests.road.server import Serve, Server
from tests.store.proxy import proxied
from tests.store.servers import ClockedServer
from tests.store.topologies import Topology
from tests.support import Valkey, eventually

CLIENTS = [f"c{n}" for n in range(20)]
PAUSE_S = 0.1  # between rounds of pushes
DETECT_MS = 1000
WORKERS = 2
NODE_TTL_MS = 2000
SETTINGS = (
    "auth.mode=dev",
    "queue.url=embedded",
    "peers.secret=a-secret-of-this-test",
    "processor.retry=200ms",  # all that happens here lasts longer, and is no owner that cannot be reached
)


async def each_primary(topology: Topology, *command: str | int) -> None:
    for primary in topology.primaries():
        await asyncio.to_thread(primary.command, *command)


async def planned(topology: Topology) -> None:
    await asyncio.to_thread(topology.failover, "zpush:lease:c0")


async def killed(topology: Topology) -> None:
    """And noticed by who has to decide."""
    await asyncio.to_thread(topology.detect_within, DETECT_MS)
    primary = await asyncio.to_thread(topology.primary_of, "zpush:lease:c0")
    await asyncio.to_thread(topology.kill, primary)

    def replaced() -> bool:
        with contextlib.suppress(RedisError, AssertionError, OSError):
            return topology.primary_of("zpush:lease:c0") is not primary
        return False

    await eventually(lambda: asyncio.to_thread(replaced), "another one is the primary")


async def killed_without_its_last_writes(topology: Topology) -> None:
    """The replica has heard of nothing since before the clients connected."""
    primary = await asyncio.to_thread(topology.primary_of, "zpush:lease:c0")
    await asyncio.to_thread(topology.kill, primary)
    await asyncio.to_thread(topology.failover, "zpush:lease:c0")


async def restarted_empty(topology: Topology) -> None:
    primary = topology.primary_of()
    await asyncio.to_thread(topology.kill, primary)
    await asyncio.to_thread(topology.restart, primary)


async def emptied(topology: Topology) -> None:
    await each_primary(topology, "FLUSHALL")


async def one_shard_emptied(topology: Topology) -> None:
    """Not the one that knows the nodes, so nothing that is renewed every second is lost."""
    nodes = topology.primary_of("zpush:{nodes}")
    emptied = next(topology.primary_of(f"zpush:lease:{c}") for c in CLIENTS if is_elsewhere(topology, c, nodes))
    await asyncio.to_thread(emptied.command, "FLUSHALL")


def is_elsewhere(topology: Topology, client_id: str, nodes: object) -> bool:
    return topology.primary_of(f"zpush:lease:{client_id}") is not nodes


@pytest.fixture
def clocked(tmp_path: Path) -> Iterator[ClockedServer]:
    server = ClockedServer(tmp_path)
    server.start()
    yield server
    server.kill()


Incident = Callable[[Topology], Awaitable[None]]
CASES: list[tuple[str, Incident, str]] = [
    ("valkey", restarted_empty, "primary"),
    ("valkey", emptied, "primary"),
    ("sentinels", planned, "primary"),
    ("sentinels", killed, "primary"),
    ("sentinels", killed, "replica"),
    ("sentinels", killed_without_its_last_writes, "primary"),
    ("sentinels", emptied, "primary"),
    ("cluster", killed_without_its_last_writes, "primary"),
    ("cluster", planned, "primary"),
    ("cluster", killed, "primary"),
    ("cluster", killed, "replica"),
    ("cluster", emptied, "primary"),
    ("cluster", one_shard_emptied, "primary"),
    ("redis sentinels", killed, "primary"),
    ("redis cluster", killed, "primary"),
]


class Flow:
    """Rounds of queued pushes to every client, until it is told to end."""

    def __init__(self, api: Api) -> None:
        self.texts: list[str] = []
        self._api = api
        self._over = asyncio.Event()
        self._task = asyncio.create_task(self._push())

    async def end(self) -> None:
        self._over.set()
        await self._task

    async def round_after(self) -> None:
        """A whole round is pushed after this was called."""
        count = len(self.texts) + 2
        await eventually(lambda: len(self.texts) >= count, "two more rounds are pushed")

    async def _push(self) -> None:
        while not self._over.is_set():
            text = str(len(self.texts))
            self.texts.append(text)
            for client_id in CLIENTS:
                await self._api.push({"client": client_id}, text=text)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), PAUSE_S)


@contextlib.asynccontextmanager
async def flowing(server: Server, connect: Connect) -> AsyncIterator[Api]:
    """At the end every client has had every message once, in order, over the connection of the beginning."""
    devices = [await connect(server, client_id) for client_id in CLIENTS]
    async with Api(server.api) as api:
        flow = Flow(api)
        await flow.round_after()
        try:
            yield api
            await flow.round_after()
            await leases_are_back(api)
        finally:
            await flow.end()
        for device in devices:
            assert await device.receive_all(len(flow.texts)) == flow.texts
        assert (await api.metrics()).total("zpush_messages_total", outcome="offline") == 0
        for device in devices:
            await reached(api, device)


async def leases_are_back(api: Api) -> None:
    async def back() -> bool:
        if (await api.metrics()).total("zpush_dirty_leases"):
            return False
        return all([await api.holds(client_id) for client_id in CLIENTS])

    await eventually(back, "every lease is back")


async def reached(api: Api, device: Device) -> None:
    assert await api.direct(device.client_id, "at last") == "delivered"
    assert await device.receive() == "at last"


@pytest.mark.parametrize(("kind", "incident", "read_from"), CASES, ids=lambda it: getattr(it, "__name__", it))
async def test_a_registry_that_fails_over_or_forgets_loses_nobody(
    serve: Serve, topologies: Callable[[str], Topology], connect: Connect, kind: str, incident: Incident, read_from: str
) -> None:
    topology = await asyncio.to_thread(topologies, kind)
    if incident is killed_without_its_last_writes:
        await asyncio.to_thread(topology.cut_off, topology.replica_of("zpush:lease:c0"))
    where = f"registry.url={topology.url}", f"registry.read_from={read_from}"
    server = await asyncio.to_thread(serve, *SETTINGS, *where)
    topology.disturb()
    async with flowing(server, connect):
        await incident(topology)


@pytest.mark.parametrize("setting", ["maxmemory", "min-replicas-to-write"])
async def test_a_registry_that_takes_no_writes_for_longer_than_a_node_ttl(
    serve: Serve, topologies: Callable[[str], Topology], connect: Connect, setting: str
) -> None:
    """It is full, or has no replica. Readiness says so; who is connected is reached, at the latest when it takes writes
    again; a client that comes meanwhile is let in, and found afterwards."""
    topology = await asyncio.to_thread(topologies, "valkey")
    server = await asyncio.to_thread(serve, *SETTINGS, f"registry.url={topology.url}", "registry.node_ttl=1s")
    topology.disturb()
    async with flowing(server, connect) as api:
        await each_primary(topology, "SET", "zpush:test", "until three node TTLs have passed", "PX", 3000)
        await each_primary(topology, "CONFIG", "SET", setting, 1)
        newcomer = await connect(server, "newcomer", known_as="")

        async def waits() -> bool:
            return (await api.metrics()).total("zpush_dirty_leases") >= 1

        async def told() -> bool:
            answer = await api.http.get("/readyz")
            return answer.status_code == 503 and "registry" in answer.text

        async def long_enough() -> bool:
            return not await asyncio.to_thread(topology.primary_of().command, "EXISTS", "zpush:test")

        await eventually(waits, "its lease cannot be written")
        await eventually(told, "readiness names the registry")
        await eventually(long_enough, "no node key could be renewed by a SET for its TTL")
        await each_primary(topology, "CONFIG", "SET", setting, 0)
        await eventually(lambda: api.holds("newcomer"), "the newcomer is known")
        await reached(api, newcomer)


async def test_a_network_that_is_cut_between_a_worker_and_the_registry(
    serve: Serve, valkey: Valkey, connect: Connect
) -> None:
    """Nothing is refused and nothing is answered. Readiness says so; the box's own clients are reached."""
    async with proxied(valkey.socket_path) as proxy:
        server = await asyncio.to_thread(serve, *SETTINGS, f"registry.url=redis://127.0.0.1:{proxy.port}")
        async with flowing(server, connect) as api:
            proxy.stall()

            async def told() -> bool:
                answer = await api.http.get("/readyz")
                return answer.status_code == 503 and "registry" in answer.text

            await eventually(told, "readiness names the registry")
            proxy.resume()


@pytest.mark.parametrize("ahead_s", [3600, -3600], ids=["ahead", "behind"])
async def test_a_registry_whose_clock_jumps_and_comes_back(
    serve: Serve, clocked: ClockedServer, connect: Connect, ahead_s: int
) -> None:
    """Ahead, every lease and node runs out at once: as bad as if it had forgotten everything. Behind, they live on."""
    settings = *SETTINGS, f"registry.url=redis://{clocked.address}", f"registry.node_ttl={NODE_TTL_MS}ms"
    server = await asyncio.to_thread(serve, *settings)

    def right_again() -> bool:
        """Nodes that die from now on are missed in time, whatever was written before."""
        keys = clocked.command("KEYS", "zpush:{nodes}:node:*")
        return len(keys) == WORKERS and all(0 < clocked.command("PTTL", key) <= NODE_TTL_MS for key in keys)

    async with flowing(server, connect) as api:
        for each_s in (ahead_s, 0):
            clocked.set_clock(each_s)
            await eventually(lambda: asyncio.to_thread(right_again), "both workers are known, for their TTL only")
            await leases_are_back(api)
