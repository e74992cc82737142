"""What zpush asks of a server is what docs/registry.md says: whoever may do that and nothing else will do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence

import pytest
from redis.crc import key_slot

from tests.registry.support import registry_at
from tests.store.topologies import Cluster, Sentinels, Topology
from tests.support import ROOT
from zpush.config.settings import Registry as Settings
from zpush.errors import RegistryUnavailable
from zpush.registry.base import Lease, Node, NodeState
from zpush.registry.redis import RedisRegistry
from zpush.store import Store

A, B = "aaaaaaaaaa", "bbbbbbbbbb"
NOW_MS = 1_700_000_000_000
USER = "zpush-registry"


def documented(prefix: str = "t") -> list[list[str]]:
    """The rules of each ACL SETUSER in the docs: for all servers, then what a cluster needs besides."""
    page = (ROOT / "docs/registry.md").read_text()
    found = re.findall(rf"^    ACL SETUSER {USER} (.*?)\n\n", page, re.MULTILINE | re.DOTALL)
    return [rules.replace("~zpush:", f"~{prefix}:").replace(">PASSWORD", ">pw").split() for rules in found]


def allow(topology: Topology, rules: Sequence[str]) -> str:
    """The URL of a user who may do that and nothing else."""
    for server in topology.servers:
        server.command("ACL", "DELUSER", USER)
        server.command("ACL", "SETUSER", USER, *rules)
        server.command("ACL", "LOG", "RESET")
    return topology.url.replace("://", f"://{USER}:pw@")


async def everything(registry: RedisRegistry, topology: Topology) -> None:
    """Every call, and every branch that has a command of its own."""
    assert registry.up, registry.reason
    one, two = (Node(node_id, "10.0.0.1:8100", "eu", NodeState.UP) for node_id in (A, B))
    repairing = Node(A, "10.0.0.1:8100", "eu", NodeState.REPAIRING)
    await asyncio.gather(registry.announce(one), registry.announce(two), registry.announce(repairing))
    assert await registry.renew_node(one) and await registry.whole()
    assert set(await registry.nodes()) == set(await registry.find_nodes([A, B])) == {A, B}
    await registry.withdraw(B)
    assert (await registry.server()).role == "master"

    await registry.register("c", "u", A, NOW_MS)
    newer = await registry.register("c", "u", A, NOW_MS - 1)  # asks for the time
    lease = Lease("c", A, NOW_MS + 1, "u")
    assert not isinstance(newer, Lease) and newer.epoch == lease.epoch
    for server in topology.primaries():
        server.command("SCRIPT", "FLUSH")
    assert await registry.register_late(lease) is None
    await registry.renew([lease])
    assert await registry.look_up(["c", "d"]) == [lease, None]
    assert await registry.user_clients("u") == {"c": lease}
    assert await registry.remove(lease)


async def test_a_user_with_the_documented_rights_is_enough(topology: Topology) -> None:
    everywhere, in_a_cluster = documented()
    url = allow(topology, [*everywhere, *(in_a_cluster if isinstance(topology, Cluster) else [])])
    async with registry_at(url) as (registry, store):
        await everything(registry, topology)
        told = await asyncio.wait_for(store.call("t:lease:c", "TIME"), 10)
        assert registry._clock._ahead_ms is not None and len(told) == 2
    assert [server.command("ACL", "LOG") for server in topology.servers] == [[]] * len(topology.servers), "refused"


@pytest.mark.parametrize("right", [rule for rule in documented()[0] if rule.startswith("+")])
async def test_none_of_these_rights_is_one_too_many(topologies: Callable[[str], Topology], right: str) -> None:
    topology = topologies("valkey")
    url = allow(topology, [rule for rule in documented()[0] if rule != right])
    async with registry_at(url) as (registry, _):
        with pytest.raises((RegistryUnavailable, AssertionError), match="permission|can.t run this command"):
            await everything(registry, topology)


async def test_a_cluster_is_also_asked_for_replicas_and_for_slots_that_move(cluster: Cluster) -> None:
    """With the documented rights and no others."""
    everywhere, in_a_cluster = documented()
    url = allow(cluster, [*everywhere, *in_a_cluster])
    store = Store(url, name="test", read_replicas=True)
    registry = RedisRegistry(store, Settings(prefix="t", read_from="replica"))
    await registry.start()
    cluster.disturb()
    key, lease = "t:lease:c", Lease("c", A, NOW_MS)
    target = next(server for server in cluster.primaries() if server is not cluster.primary_of(key))
    asked = target.calls("asking")
    source = cluster.begin_move(key_slot(key.encode()), target)
    try:
        assert await registry.register_late(lease) is None
        assert await registry.look_up(["c"]) == [lease]
    finally:
        cluster.move_keys(key_slot(key.encode()), source, target)
        cluster.end_move(key_slot(key.encode()), target)
        await registry.stop()
    assert target.calls("asking") > asked
    assert any(server.calls("readonly") for server in cluster.servers)
    assert [server.command("ACL", "LOG") for server in cluster.servers] == [[]] * len(cluster.servers), "refused"


async def test_sentinels_are_asked_no_more_than_is_documented(sentinels: Sentinels) -> None:
    rules = re.search(r"^    ACL SETUSER zpush-watch (.*)$", (ROOT / "docs/registry.md").read_text(), re.MULTILINE)
    assert rules is not None
    for sentinel in sentinels.sentinels:
        sentinel.command("ACL", "SETUSER", "zpush-watch", *rules[1].replace(">PASSWORD", ">pw").split())
        sentinel.command("ACL", "LOG", "RESET")
    url = f"{sentinels.url}?sentinel_username=zpush-watch&sentinel_password=pw"
    store = Store(url, name="test", read_replicas=True)
    await store.start()
    try:
        assert store.up, store.reason
        assert [sentinel.command("ACL", "LOG") for sentinel in sentinels.sentinels] == [[]] * 3, "refused"
    finally:
        await store.stop()
        for sentinel in sentinels.sentinels:
            sentinel.command("ACL", "DELUSER", "zpush-watch")
