"""A worker's leases without its front door: a real engine with real clients, a LeaseKeeper, a real Valkey."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tests._fast.engine_support import EngineLimits, Harness, Peer
from tests.support import Valkey
from zpush.config.settings import Registry as Settings
from zpush.delivery.presence import Presence
from zpush.registry.base import Lease, Node, NodeState
from zpush.registry.redis import RedisRegistry
from zpush.server.leases import LeaseKeeper
from zpush.store import Store

EPOCH = 7  # the harness opens every connection with it


@dataclass
class Worker:
    harness: Harness
    registry: RedisRegistry
    store: Store
    keeper: LeaseKeeper
    peers: list[Peer]  # a socket that nobody holds is closed

    async def connect(self, client: str) -> int:
        """An open connection without a lease; its handle."""
        self.peers.append(await self.harness.open(f"raw/{client}"))
        return self.harness.engine.find(client.encode())

    async def connected(self, *clients: str) -> None:
        """Open connections with written leases."""
        for client in clients:
            await self.connect(client)
            await self.registry.register_late(Lease(client, "me", EPOCH))

    async def connected_elsewhere(self, *clients: str, epoch: int) -> None:
        """At a worker that lives."""
        await self.registry.announce(Node("other", "127.0.0.1:2", "local", NodeState.UP))
        await self.store.call("", "PEXPIRE", "zpush:{nodes}:node:other", 60_000)
        for client in clients:
            await self.registry.register(client, "", "other", epoch)

    async def holders(self, *clients: str) -> list[str]:
        return [lease.node_id if lease is not None else "" for lease in await self.registry.look_up(clients)]

    async def state(self) -> NodeState | None:
        node = (await self.registry.find_nodes(["me"])).get("me")
        return node.state if node is not None else None


@contextlib.asynccontextmanager
async def lease_world(valkey: Valkey, settings: Settings, presence: Presence | None = None) -> AsyncIterator[Worker]:
    harness = Harness(EngineLimits(keepalive_s=3600))
    store = Store(valkey.url, name="test")
    registry = RedisRegistry(store, settings)
    keeper = LeaseKeeper(registry, settings, Node("me", "127.0.0.1:1", "local", NodeState.UP), presence)
    keeper.engine = harness.engine
    await registry.start()
    await keeper.start()
    try:
        yield Worker(harness, registry, store, keeper, [])
    finally:
        await keeper.stop()
        await registry.stop()
        harness.close()
