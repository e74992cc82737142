"""The registry on several real servers: one shard away, or a replica that knows less than its primary."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from tests.store.topologies import Cluster, Sentinels, Topology
from tests.support import eventually
from zpush.config.settings import Registry as Settings
from zpush.errors import RegistryUnavailable
from zpush.registry.base import Lease, Node, NodeState, Renewal
from zpush.registry.redis import RedisRegistry
from zpush.store import Store

A, B = "aaaaaaaaaa", "bbbbbbbbbb"
NOW_MS = 1_700_000_000_000
CLIENTS = [f"c{i}" for i in range(60)]
LEASES = [Lease(client_id, A, NOW_MS, "") for client_id in CLIENTS]


def opened(topology: Topology, read_from: str = "primary") -> RedisRegistry:
    store = Store(topology.url, name="test", read_replicas=read_from == "replica")
    return RedisRegistry(store, Settings(prefix="t", read_from=read_from))


async def test_a_shard_that_is_away_takes_only_its_own_leases_along(cluster: Cluster) -> None:
    registry = opened(cluster)
    reconnects: list[bool] = []
    registry.on_reconnect(reconnects.append)
    await registry.start()
    try:
        await asyncio.gather(*(registry.register_late(lease) for lease in LEASES))
        dead = cluster.primary_of("t:lease:c0")
        away = [cluster.primary_of(f"t:lease:{client_id}") is dead for client_id in CLIENTS]
        cluster.kill(dead)
        await eventually(lambda: registry.reason, "it is missed")
        assert registry.up
        for lease, stored, renewed, is_away in zip(
            LEASES, await registry.look_up(CLIENTS), await registry.renew(LEASES), away, strict=True
        ):
            if is_away:
                assert isinstance(stored, RegistryUnavailable) and isinstance(renewed, RegistryUnavailable)
            else:
                assert stored == lease and renewed is Renewal.EXTENDED
        await asyncio.to_thread(cluster.failover, "t:lease:c0")
        await eventually(lambda: not registry.reason, "it is back")
        assert True in reconnects
        assert await registry.look_up(CLIENTS) == LEASES
    finally:
        await registry.stop()


async def test_users_and_clients_may_be_on_different_shards(cluster: Cluster) -> None:
    registry = opened(cluster)
    await registry.start()
    try:
        leases = [Lease(client_id, A, NOW_MS, f"u{i % 7}") for i, client_id in enumerate(CLIENTS)]
        assert await asyncio.gather(*(registry.register_late(lease) for lease in leases)) == [None] * 60
        found = await asyncio.gather(*(registry.user_clients(f"u{i}") for i in range(7)))
        assert sorted(client_id for of_user in found for client_id in of_user) == sorted(CLIENTS)
        assert await registry.renew(leases) == [Renewal.EXTENDED] * 60
    finally:
        await registry.stop()


async def test_all_that_is_known_of_nodes_is_on_one_shard(cluster: Cluster) -> None:
    registry = opened(cluster)
    await registry.start()
    try:
        nodes = [Node(f"node{i:06d}", "10.0.0.1:8100", "eu", NodeState.REPAIRING) for i in range(20)]
        await asyncio.gather(*(registry.announce(node) for node in nodes))
        assert await registry.nodes() == {node.id: node for node in nodes}
        sizes = sorted(int(server.command("DBSIZE")) for server in cluster.primaries())
        assert sizes == [1, 1, 24], "a mark on each; the list, who repairs, and that all goes well"
    finally:
        await registry.stop()


async def test_a_shard_that_is_emptied_makes_no_miss_final_and_every_worker_notices(cluster: Cluster) -> None:
    one, two = opened(cluster), opened(cluster)
    nodes = {one: Node(A, "10.0.0.1:8100", "eu", NodeState.UP), two: Node(B, "10.0.0.1:8101", "eu", NodeState.UP)}

    async def told(registry: RedisRegistry) -> bool:
        """As a worker does it: says that it repairs, and later that it has."""
        if await registry.renew_node(nodes[registry]):
            return False
        await registry.announce(msgspec.structs.replace(nodes[registry], state=NodeState.REPAIRING))
        return True

    try:
        for registry in (one, two):
            await registry.start()
            await registry.announce(nodes[registry])
        assert await told(one), "the cluster is new"
        assert not await told(one) and not await told(two), "it was told once, and all that it missed with it"
        assert await one.whole()
        cluster.disturb()
        home = cluster.primary_of("t:{nodes}")
        for emptied in (each for each in cluster.primaries() if each is not home):
            await asyncio.to_thread(emptied.command, "FLUSHALL")
            assert not await one.whole() and not await two.whole()
            assert await told(one)
            assert not await two.whole(), "it repairs"
            assert await told(two), "the mark is another one"
            assert not await told(one) and not await told(two), "each is told once"
            assert await one.whole() and await two.whole()
    finally:
        await one.stop()
        await two.stop()


@pytest.mark.parametrize("kind", ["sentinels", "cluster"])
async def test_a_replica_that_is_behind(kind: str, request: pytest.FixtureRequest) -> None:
    topology: Sentinels | Cluster = request.getfixturevalue(kind)
    registry = opened(topology, "replica")
    await registry.start()
    try:
        old, new = Lease("moved", A, NOW_MS), Lease("moved", B, NOW_MS + 1)
        replica = topology.replica_of("t:lease:moved")
        await registry.register_late(old)
        await eventually(lambda: replica.info("db0"), "the replica has it")
        await asyncio.to_thread(topology.cut_off, replica)
        await registry.register_late(new)
        late = next(c for c in CLIENTS if topology.replica_of(f"t:lease:{c}") is replica)
        await registry.register_late(Lease(late, B, NOW_MS))
        assert registry.reads_replicas
        assert await registry.look_up(["moved", late]) == [old, Lease(late, B, NOW_MS)], "what it has not is asked for"
        assert await registry.look_up(["moved", late], fresh=True) == [new, Lease(late, B, NOW_MS)]
    finally:
        await registry.stop()
