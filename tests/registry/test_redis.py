"""The registry's contract, wherever its servers are."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import pytest

from tests.registry.support import LEASE_TTL_S, registry_at
from tests.store.proxy import proxied
from tests.store.topologies import Topology
from tests.support import Valkey, eventually
from zpush.errors import RegistryUnavailable
from zpush.registry.base import Lease, Node, NodeState, Registration, Registry, Renewal
from zpush.registry.nodes import FORGET_MS
from zpush.registry.redis import RedisRegistry
from zpush.store import Future, Store

A, B = "aaaaaaaaaa", "bbbbbbbbbb"
NOW_MS = 1_700_000_000_000
ODD_IDS = ["a b", " ", "🦊", "zpush:lease:x", "{tag}", "a*b?[c]", "1 2 abc u", "%s%d", "é" * 127, "x" * 255]


@pytest.fixture
async def both(topology: Topology) -> AsyncIterator[tuple[RedisRegistry, Store]]:
    async with registry_at(topology.url) as both:
        assert both[0].up, both[0].reason
        yield both


@pytest.fixture
def registry(both: tuple[RedisRegistry, Store]) -> Registry:
    return both[0]


@pytest.fixture
def store(both: tuple[RedisRegistry, Store]) -> Store:
    return both[1]


def raw(store: Store, command: str, key: str, *arguments: str | bytes | float) -> Future:
    return store.call(key, command, key, *arguments)


def node(node_id: str = A, state: NodeState = NodeState.UP) -> Node:
    return Node(node_id, "10.0.0.1:8100", "eu", state, "box", 1, 42, 1000, NOW_MS)


# Leases


async def test_a_new_handshake_wins_and_learns_whom_it_replaced(registry: Registry) -> None:
    assert await registry.register("c", "u", A, NOW_MS) == Registration(NOW_MS, None)
    first = Lease("c", A, NOW_MS, "u")
    assert await registry.register("c", "u2", B, NOW_MS) == Registration(NOW_MS + 1, first)
    second = Lease("c", B, NOW_MS + 1, "u2")
    assert await registry.register("c", "", B, NOW_MS - 5000) == Registration(NOW_MS + 2, second)  # a slow clock
    assert await registry.register("c", "", B, NOW_MS + 9) == Registration(NOW_MS + 9, Lease("c", B, NOW_MS + 2, ""))
    assert await registry.look_up(["c"]) == [Lease("c", B, NOW_MS + 9, "")]


async def test_two_handshakes_of_one_turn_are_ordered(registry: Registry) -> None:
    one, two = await asyncio.gather(registry.register("c", "", A, NOW_MS), registry.register("c", "", B, NOW_MS))
    assert one == Registration(NOW_MS, None)
    assert two == Registration(NOW_MS + 1, Lease("c", A, NOW_MS))


async def test_a_late_registration_wins_only_over_older_ones(registry: Registry) -> None:
    old, new = Lease("c", A, NOW_MS, "u"), Lease("c", B, NOW_MS + 5, "u")
    assert await registry.register_late(old) is None
    assert await registry.register_late(old) is None  # its own
    assert await registry.register_late(new) is None
    assert await registry.register_late(old) == new
    assert await registry.register_late(Lease("c", A, NOW_MS + 5, "u")) == new  # a tie stays where it is
    assert await registry.look_up(["c"]) == [new]


async def test_renewal_extends_only_what_is_its_own(registry: Registry, store: Store) -> None:
    mine, lost, missing = Lease("mine", A, NOW_MS, "u"), Lease("lost", A, NOW_MS), Lease("missing", A, NOW_MS)
    for lease in (mine, lost):
        await registry.register_late(lease)
        await raw(store, "PEXPIRE", f"t:lease:{lease.client_id}", 20_000)
    newer = await registry.register("lost", "", B, NOW_MS)
    await raw(store, "PEXPIRE", "t:lease:lost", 20_000)
    holder = Lease("lost", B, newer.epoch)
    assert await registry.renew([mine, lost, missing]) == [Renewal.EXTENDED, holder, Renewal.MISSING]
    assert LEASE_TTL_S * 1000 - 30_000 < await raw(store, "PTTL", "t:lease:mine") <= LEASE_TTL_S * 1000
    assert await raw(store, "PTTL", "t:lease:lost") <= 20_000
    assert await registry.renew([]) == []


async def test_an_older_lease_in_our_place_has_to_be_written_again(registry: Registry) -> None:
    """What a failover that lost the last writes leaves behind: nobody newer holds the client."""
    await registry.register_late(Lease("c", B, NOW_MS))
    mine = Lease("c", A, NOW_MS + 7)
    assert await registry.renew([mine]) == [Renewal.MISSING]
    assert await registry.register_late(mine) is None


async def test_removal_only_of_what_is_unchanged(registry: Registry) -> None:
    lease = Lease("c", A, NOW_MS, "u")
    await registry.register_late(lease)
    assert not await registry.remove(Lease("c", A, NOW_MS - 1, "u"))
    assert not await registry.remove(Lease("c", B, NOW_MS, "u"))
    assert await registry.remove(lease)
    assert not await registry.remove(lease)
    assert await registry.look_up(["c"]) == [None]


async def test_a_lease_expires(topology: Topology) -> None:
    async with registry_at(topology.url, lease_ttl_s=0.1) as (registry, _):
        await registry.register("c", "u", A, NOW_MS)
        await eventually(lambda: _absent(registry, "c"), "the lease is gone")
        assert await registry.user_clients("u") == {}


async def _absent(registry: Registry, client_id: str) -> bool:
    return await registry.look_up([client_id]) == [None]


async def test_look_up_keeps_the_order(registry: Registry) -> None:
    await asyncio.gather(*(registry.register(f"c{i}", "", A, NOW_MS + i) for i in range(0, 100, 2)))
    found = await registry.look_up([f"c{i}" for i in range(100)])
    assert [lease and lease.epoch - NOW_MS for lease in found] == [None if i % 2 else i for i in range(100)]
    assert await registry.look_up([]) == []


@pytest.mark.parametrize("odd", ODD_IDS)
async def test_ids_may_contain_anything_printable(registry: Registry, odd: str) -> None:
    registration = await registry.register(odd, odd, A, NOW_MS)
    lease = Lease(odd, A, registration.epoch, odd)
    assert await registry.look_up([odd]) == [lease]
    assert await registry.user_clients(odd) == {odd: lease}
    assert await registry.renew([lease]) == [Renewal.EXTENDED]
    assert (await registry.register(odd, odd, B, NOW_MS)).replaced == lease
    assert await registry.remove(Lease(odd, B, NOW_MS + 1, odd))


async def test_the_registrations_of_a_turn_travel_in_one_write(valkey: Valkey) -> None:
    async with proxied(valkey.socket_path) as proxy, registry_at(f"redis://127.0.0.1:{proxy.port}") as (registry, _):
        await registry.register("warm", "", A, NOW_MS)
        proxy.writes.clear()
        leases = [Lease(f"r{i}", A, NOW_MS) for i in range(20)]
        await asyncio.gather(
            *(registry.register(f"c{i}", "", A, NOW_MS) for i in range(20)),
            *(registry.remove(lease) for lease in leases),
            registry.renew(leases),
            registry.look_up(["a", "b"]),
        )
        assert len(proxy.writes) == 1
        assert proxy.writes[0].count(b"EVALSHA") == 60 and proxy.writes[0].count(b"MGET") == 1


# Users


async def test_a_users_clients(registry: Registry) -> None:
    for client_id in ("phone", "laptop"):
        await registry.register(client_id, "ann", A, NOW_MS)
    await registry.register("other", "bob", A, NOW_MS)
    assert sorted(await registry.user_clients("ann")) == ["laptop", "phone"]
    assert await registry.user_clients("nobody") == {}


async def test_a_client_that_changed_hands_is_only_its_new_users(registry: Registry) -> None:
    await registry.register("tablet", "ann", A, NOW_MS)
    await registry.register("tablet", "bob", A, NOW_MS)
    assert await registry.user_clients("ann") == {}
    assert list(await registry.user_clients("bob")) == ["tablet"]


async def test_a_client_whose_lease_is_lost_is_still_its_users(registry: Registry) -> None:
    """Its lease may be about to be repaired: whether a miss is final is for the caller to say."""
    await registry.register("phone", "ann", A, NOW_MS)
    await registry.remove(Lease("phone", A, NOW_MS, "ann"))
    assert await registry.user_clients("ann") == {"phone": None}


async def test_the_index_is_pruned_by_score_and_expires(registry: Registry, store: Store) -> None:
    await raw(store, "ZADD", "t:user:ann", 1, "dead")
    await registry.register("phone", "ann", A, NOW_MS)
    assert await raw(store, "ZRANGE", "t:user:ann", 0, -1) == [b"phone"]
    assert 0 < await raw(store, "PTTL", "t:user:ann") <= LEASE_TTL_S * 1000
    await raw(store, "ZADD", "t:user:ann", 1, "dead")
    assert list(await registry.user_clients("ann")) == ["phone"]
    assert await raw(store, "ZCARD", "t:user:ann") == 1


async def test_renewal_keeps_the_index(registry: Registry, store: Store) -> None:
    leases = [Lease(c, A, NOW_MS, u) for c, u in (("phone", "ann"), ("laptop", "ann"), ("tablet", "bob"), ("tv", ""))]
    for lease in leases:
        await registry.register_late(lease)
    for user_id in ("ann", "bob"):
        await raw(store, "DEL", f"t:user:{user_id}")
    assert await registry.renew(leases) == [Renewal.EXTENDED] * 4
    assert sorted(await registry.user_clients("ann")) == ["laptop", "phone"]
    assert list(await registry.user_clients("bob")) == ["tablet"]
    assert not await raw(store, "EXISTS", "t:user:")


# Nodes


async def test_nodes(registry: Registry) -> None:
    assert await registry.nodes() == {}
    one, two = node(A), node(B, NodeState.REPAIRING)
    await asyncio.gather(registry.announce(one), registry.announce(two))
    assert await registry.nodes() == {A: one, B: two}
    await registry.announce(node(A, NodeState.DRAINING))
    assert (await registry.nodes())[A].state is NodeState.DRAINING
    await registry.withdraw(A)
    assert await registry.nodes() == {B: two}


async def test_a_node_that_is_silent_is_gone_and_may_come_back(topology: Topology) -> None:
    async with registry_at(topology.url, node_ttl_s=0.1) as (registry, store):
        await registry.announce(node())
        await eventually(lambda: _no_nodes(registry), "the node is gone")
        assert await raw(store, "ZCARD", "t:{nodes}") == 1  # perhaps only paused
    async with registry_at(topology.url) as (registry, _):
        await registry.announce(node())
        assert await registry.nodes() == {A: node()}


async def _no_nodes(registry: Registry) -> bool:
    return not await registry.nodes()


async def test_the_directory_forgets_the_dead_but_nobody_who_lives(registry: Registry, store: Store) -> None:
    long_ago = time.time_ns() // 1_000_000 - FORGET_MS - 1000
    await registry.announce(node(A))
    await raw(store, "ZADD", "t:{nodes}", long_ago, B, long_ago, A)  # A: a living node whose clock is behind
    assert await registry.nodes() == {A: node(A)}
    assert await raw(store, "ZRANGE", "t:{nodes}", 0, -1) == [A.encode()]


# Data that is not ours


@pytest.mark.parametrize("foreign", [("SET", "k", "hello"), ("LPUSH", "k", "1"), ("SET", "k", b"1 99 \xff")])
async def test_foreign_data_under_a_leases_key_counts_as_absent(
    registry: RedisRegistry, store: Store, foreign: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    command, _, value = foreign
    lease = Lease("c", A, NOW_MS, "u")
    await raw(store, command, "t:lease:c", value)
    assert await registry.look_up(["c", "c"]) == [None, None]
    assert await registry.renew([lease]) == [Renewal.MISSING]
    assert not await registry.remove(lease)
    assert await registry.register("c", "u", A, NOW_MS) == Registration(NOW_MS, None)
    assert registry.foreign > 0
    assert len([r for r in caplog.records if "t:lease:c" in r.getMessage()]) == 1
    await raw(store, "DEL", "t:lease:c")
    await raw(store, command, "t:lease:c", value)
    assert await registry.register_late(lease) is None
    assert await registry.look_up(["c"]) == [lease]


async def test_a_lease_of_a_later_version_is_kept_alive_and_gives_way_to_a_newer_handshake(
    registry: Registry, store: Store
) -> None:
    later = f"2 {NOW_MS} {B} ann\x1fmore"
    await raw(store, "SET", "t:lease:c", later, "PX", 20_000)
    held = Lease("c", B, NOW_MS, "ann")
    assert await registry.look_up(["c"]) == [held]
    assert await registry.register_late(Lease("c", A, NOW_MS - 1)) == held
    assert await registry.renew([held]) == [Renewal.EXTENDED]
    assert await raw(store, "GET", "t:lease:c") == later.encode()
    assert await raw(store, "PTTL", "t:lease:c") > 20_000
    assert await registry.register("c", "ann", A, NOW_MS) == Registration(NOW_MS + 1, held)


async def test_foreign_data_in_the_user_index_does_not_stop_a_registration(
    registry: RedisRegistry, store: Store
) -> None:
    await raw(store, "SET", "t:user:ann", "hello")
    await registry.register("phone", "ann", A, NOW_MS)
    assert await registry.look_up(["phone"]) == [Lease("phone", A, NOW_MS, "ann")]
    assert await registry.user_clients("ann") == {}
    assert registry.foreign > 0


@pytest.mark.parametrize("value", ["hello", "{}", '{"id":1}', b"\xff", '{"id":"bbbbbbbbbb","state":"flying"}'])
async def test_a_node_that_cannot_be_read_is_left_out(registry: RedisRegistry, store: Store, value: str) -> None:
    await registry.announce(node(A))
    await raw(store, "SET", f"t:{{nodes}}:node:{B}", value)
    await raw(store, "ZADD", "t:{nodes}", 1, B)
    assert await registry.nodes() == {A: node(A)}
    assert registry.foreign == 1


# Away


async def every_call(registry: Registry) -> list[object]:
    """Their answers; of those for many, the first."""
    lease = Lease("c", A, NOW_MS, "u")
    answers = await asyncio.gather(
        registry.register("c", "u", A, NOW_MS),
        registry.register_late(lease),
        registry.renew([lease]),
        registry.remove(lease),
        registry.look_up(["c"]),
        registry.user_clients("u"),
        registry.announce(node()),
        registry.withdraw(A),
        registry.nodes(),
        return_exceptions=True,
    )
    return [answer[0] if isinstance(answer, list) else answer for answer in answers]


async def test_every_call_says_so_quickly_while_the_server_is_away(topology: Topology, registry: RedisRegistry) -> None:
    reconnects: list[bool] = []
    registry.on_reconnect(reconnects.append)
    for server in topology.servers:
        topology.kill(server)
    async with asyncio.timeout(2):
        assert [type(e) for e in await every_call(registry)] == [RegistryUnavailable] * 9
        assert [type(e) for e in await every_call(registry)] == [RegistryUnavailable] * 9
    assert not registry.up and registry.reason and reconnects == []
    topology.heal()
    await eventually(lambda: registry.up and not registry.reason, "the registry is back")
    await registry.register("c", "", A, NOW_MS)
    assert True in reconnects


async def test_a_server_that_refuses_a_command_is_unavailable(topology: Topology) -> None:
    for server in topology.servers:
        server.command("ACL", "SETUSER", "reader", "on", "nopass", "~*", "+@all", "-@write")
    async with registry_at(topology.url.replace("://", "://reader:x@")) as (limited, _):
        with pytest.raises(RegistryUnavailable, match="permission|can.t run this command"):
            await limited.register("c", "", A, NOW_MS)
        assert await limited.look_up(["c"]) == [None]


async def test_a_full_server_takes_no_new_leases_but_keeps_the_old(topology: Topology, registry: Registry) -> None:
    lease = Lease("c", A, NOW_MS)
    await registry.register_late(lease)
    for server in topology.primaries():
        server.command("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(RegistryUnavailable, match="OOM"):
        await registry.register("d", "", A, NOW_MS)
    assert await registry.renew([lease]) == [Renewal.EXTENDED]
    assert await registry.look_up(["c"]) == [lease]
    assert await registry.remove(lease)


async def test_the_first_connect_is_a_reconnect_only_where_start_had_to_do_without(valkey: Valkey) -> None:
    reconnects: list[bool] = []
    async with registry_at(valkey.url) as (registry, store):
        registry.on_reconnect(reconnects.append)
        await store.call("", "PING")
        assert reconnects == []
    valkey.kill()
    async with registry_at(valkey.url) as (registry, store):
        registry.on_reconnect(reconnects.append)
        valkey.restart()
        await eventually(lambda: reconnects, "told of the first connect")
        assert reconnects == [False]


async def test_scripts_forgotten_by_the_server(topology: Topology, registry: Registry) -> None:
    for server in topology.primaries():
        server.command("SCRIPT", "FLUSH")
    registrations = await asyncio.gather(*(registry.register("c", "", A, NOW_MS) for _ in range(3)))
    assert [r.epoch - NOW_MS for r in registrations] == [0, 1, 2]
    for server in topology.primaries():
        server.command("SCRIPT", "FLUSH")
    assert await registry.renew([Lease("c", A, NOW_MS + 2), Lease("d", A, NOW_MS)]) == [
        Renewal.EXTENDED,
        Renewal.MISSING,
    ]


async def test_no_client_is_named_in_the_log(
    registry: Registry, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        await every_call(registry)
    assert not [r for r in caplog.records if r.name.startswith("zpush")]
