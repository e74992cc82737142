"""In a cluster: redirects in the middle of a batch, shards that change hands, and shards that are away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.crc import key_slot

from tests.store.servers import Server
from tests.store.stores import is_well, started
from tests.store.topologies import Cluster
from tests.support import eventually
from zpush.errors import Unavailable
from zpush.store import Refusal, Store
from zpush.store.pipeline import Pipeline

KEYS = [f"k{i}" for i in range(300)]
SLOT = key_slot(b"k0")
TAGGED = [f"{{k0}}{i}" for i in range(20)]  # all in that slot
pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # servers take their time; test_topologies.py runs on both


@pytest.fixture
async def store(cluster: Cluster) -> AsyncIterator[Store]:
    async with started(cluster.url) as store:
        assert store.up and not store.reason, store.reason
        yield store


def connects_of(store: Store) -> list[bool]:
    connects: list[bool] = []
    store.on_connect(connects.append)
    return connects


def elsewhere(cluster: Cluster, key: str = "k0") -> Server:
    """A primary that does not own the key."""
    owner = cluster.primary_of(key)
    return next(server for server in cluster.primaries() if server is not owner)


def moved(cluster: Cluster) -> int:
    return sum(server.errors("MOVED") for server in cluster.servers if server.running)


async def all_written(store: Store) -> bool:
    return set(await store.call_many([(key, ("SET", key, key)) for key in KEYS])) == {b"OK"}


async def test_the_commands_of_one_turn_are_one_write_to_each_shard(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[Pipeline] = []
    flush = Pipeline._flush

    def counted(pipeline: Pipeline) -> None:
        writes.append(pipeline)
        flush(pipeline)

    store = Store(cluster.url, name="test")
    script = store.script("return ARGV[1]")
    await store.start()
    try:
        monkeypatch.setattr(Pipeline, "_flush", counted)
        calls = [(key, "x") for key in KEYS]
        callers = [asyncio.create_task(store.mget(KEYS)), asyncio.create_task(store.eval_many(script, calls))]
        await asyncio.gather(
            *callers,
            store.call_many([(key, ("SET", key, "1")) for key in KEYS]),
            *(store.call(key, "GET", key) for key in KEYS),
        )
        assert len(writes) == len(set(writes)) == 3
    finally:
        await store.stop()


# Slots that move


async def test_a_slot_that_moved_is_followed_and_remembered(cluster: Cluster, store: Store) -> None:
    owner, other = cluster.primary_of("k0"), elsewhere(cluster)
    connects = connects_of(store)
    assert await all_written(store)
    before = moved(cluster)
    cluster.move_slot(SLOT, other)
    try:
        assert await store.mget(KEYS) == [key.encode() for key in KEYS]
        assert moved(cluster) == before + 1
        assert await store.call("k0", "GET", "k0") == b"k0"
        assert moved(cluster) == before + 1, "the map is right now"
        assert other.command("EXISTS", "k0") == 1
        assert connects == [], "nothing was lost"
    finally:
        cluster.move_slot(SLOT, owner)


async def test_redirects_in_a_batch_concern_only_their_own_commands(cluster: Cluster, store: Store) -> None:
    script = store.script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    owner = cluster.primary_of("k0")
    cluster.move_slot(SLOT, elsewhere(cluster))
    try:
        calls = [(key, (("INCR", "LPUSH")[i % 2], key, 7)[: 2 + i % 2]) for i, key in enumerate(KEYS)]
        await store.call_many([("k1", ("SET", "k1", "text"))])
        replies = await store.call_many(calls)
        assert [reply for i, reply in enumerate(replies) if i != 1] == [1] * 299
        assert str(replies[1]).startswith("WRONGTYPE")
        assert await store.eval_many(script, [(key, 2) for key in KEYS[::2]]) == [3] * 150
    finally:
        cluster.move_slot(SLOT, owner)


async def test_while_a_slot_moves_both_ends_are_asked(cluster: Cluster, store: Store) -> None:
    owner, other = cluster.primary_of("k0"), elsewhere(cluster)
    script = store.script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    for key in TAGGED:
        await store.call(key, "SET", key, 1)
    cluster.begin_move(SLOT, other)
    try:
        owner.command("MIGRATE", "127.0.0.1", other.port, "", 0, 5000, "KEYS", *TAGGED[:10])
        before = moved(cluster)
        assert await store.mget(TAGGED) == [b"1"] * 20
        assert await store.eval_many(script, [(key, 1) for key in TAGGED]) == [2] * 20
        assert await store.eval(script, "{k0}new", 1) == 1
        assert other.command("CLUSTER", "COUNTKEYSINSLOT", SLOT) == 11
        assert moved(cluster) == before, "ASK is for once only"
        cluster.move_keys(SLOT, owner, other)
        cluster.end_move(SLOT, other)
        assert await store.mget(["{k0}new", *TAGGED]) == [b"1", *[b"2"] * 20]
    finally:
        cluster.move_keys(SLOT, owner, other)
        cluster.end_move(SLOT, other)
        cluster.move_slot(SLOT, owner)


async def test_two_nodes_that_send_us_to_each_other_are_left_after_a_few_times(cluster: Cluster, store: Store) -> None:
    owner, other = cluster.primary_of("k0"), elsewhere(cluster)
    before = moved(cluster)
    owner.command("CLUSTER", "SETSLOT", SLOT, "NODE", other.command("CLUSTER", "MYID"))
    try:
        with pytest.raises(Refusal, match="MOVED") as refused:
            await store.call("k0", "SET", "k0", "1")
        assert isinstance(refused.value, Unavailable)
        assert moved(cluster) == before + 6
        replies = await store.call_many([(key, ("SET", key, "1")) for key in KEYS])
        assert isinstance(replies[0], Unavailable) and set(replies[1:]) == {b"OK"}
    finally:
        for server in cluster.servers:
            if server.info("role") == "master":
                server.command("CLUSTER", "SETSLOT", SLOT, "NODE", owner.command("CLUSTER", "MYID"))
    await eventually(lambda: all_written(store), "the slot is served again")


async def test_a_slot_without_an_owner_is_away_alone(cluster: Cluster) -> None:
    owner = cluster.primary_of("k0")
    cluster.set_all("cluster-require-full-coverage", "no")
    for server in cluster.servers:
        server.command("CLUSTER", "DELSLOTS", SLOT)
    try:
        async with started(cluster.url) as store:
            assert store.up and store.reason == "1 slots are owned by no node"
            replies = await store.call_many([(key, ("SET", key, "1")) for key in KEYS])
            assert isinstance(replies[0], Unavailable) and set(replies[1:]) == {b"OK"}
            with pytest.raises(Unavailable, match="no node of the cluster owns the slot"):
                await store.call("k0", "GET", "k0")
            owner.command("CLUSTER", "ADDSLOTS", SLOT)
            await is_well(store)
            assert await store.call("k0", "SET", "k0", "1") == b"OK"
    finally:
        cluster.disturb()


# Primaries that change


async def test_a_planned_failover_is_followed_in_the_middle_of_everything(cluster: Cluster, store: Store) -> None:
    connects = connects_of(store)
    failover = asyncio.create_task(asyncio.to_thread(cluster.failover, "k0"))
    answered = 0
    while not failover.done() or True not in connects:
        replies = await store.call_many([(key, ("INCR", key)) for key in KEYS])
        assert all(isinstance(reply, int | Unavailable) for reply in replies)
        answered += sum(isinstance(reply, int) for reply in replies)
        await asyncio.sleep(0.001)
    await is_well(store)
    values = [int(value or 0) for value in await store.mget(KEYS)]
    assert sum(values) == answered, "every command was carried out once, wherever"
    assert connects.count(True) == 1


async def test_a_dead_primary_is_replaced_and_its_data_may_be_lost(cluster: Cluster, store: Store) -> None:
    connects = connects_of(store)
    old = cluster.primary_of("k0")
    cluster.kill(old)
    await eventually(lambda: store.reason, "it is missed")
    assert store.up and store.reason.startswith(f"1 of 3 shards: {old.address}: "), store.reason
    replies = await store.call_many([(key, ("SET", key, "1")) for key in KEYS])
    away = {key for key, reply in zip(KEYS, replies, strict=True) if isinstance(reply, Unavailable)}
    assert away == {key for key in KEYS if cluster.primary_of(key) is old}
    await asyncio.to_thread(cluster.failover, "k0")
    await eventually(lambda: all_written(store), "all shards take writes")
    await is_well(store)
    assert connects.count(True) == 1


async def test_nodes_find_out_by_themselves(cluster: Cluster, store: Store) -> None:
    cluster.detect_within(1000)
    old = cluster.primary_of("k0")
    cluster.pause(old)
    await eventually(lambda: all_written(store), "all shards take writes", 60.0)
    assert cluster.primary_of("k0") is not old


async def test_the_urls_nodes_are_needed_only_once(cluster: Cluster) -> None:
    """Not one of the connections holds, and nobody is left of those that the URL names."""
    first = cluster.primary_of("k0")
    async with started(f"redis+cluster://127.0.0.1:1,{first.address}") as store:
        assert store.up, store.reason
        heads = [cluster.key_of(server) for server in cluster.primaries()]
        for server in cluster.primaries():
            cluster.kill(server)
        for key in heads:
            await asyncio.to_thread(cluster.failover, key)
        await eventually(lambda: all_written(store), "all shards take writes")


# Shards that are away


async def test_a_cluster_that_calls_itself_down_is_down(cluster: Cluster, store: Store) -> None:
    connects = connects_of(store)
    cluster.detect_within(1000)
    old, replica = cluster.primary_of("k0"), cluster.replica_of("k0")
    cluster.kill(replica)
    cluster.kill(old)
    other = next(key for key in KEYS if cluster.primary_of(key) is not old)

    async def refused() -> bool:
        [reply] = await store.call_many([(other, ("SET", other, "1"))])
        return str(reply).startswith("CLUSTERDOWN") and isinstance(reply, Unavailable)

    await eventually(refused, "the others refuse, too", 60.0)
    await eventually(lambda: not store.up, "the store knows")
    assert store.reason.startswith("CLUSTERDOWN")
    connects.clear()
    cluster.heal()
    await eventually(lambda: all_written(store), "all shards take writes")
    await is_well(store)
    assert connects


async def test_a_shard_that_is_away_for_good_leaves_the_others_alone(cluster: Cluster, store: Store) -> None:
    cluster.set_all("cluster-require-full-coverage", "no")
    cluster.detect_within(1000)
    old, replica = cluster.primary_of("k0"), cluster.replica_of("k0")
    cluster.kill(replica)
    cluster.kill(old)
    survivor = next(server for server in cluster.primaries() if server.running)
    await eventually(lambda: "fail" in cluster.flags(old, survivor), "the others know", 60.0)
    await eventually(lambda: store.reason, "the store, too")
    for _ in range(20):
        replies = await store.call_many([(key, ("SET", key, "1")) for key in KEYS])
        away = {key for key, reply in zip(KEYS, replies, strict=True) if isinstance(reply, Unavailable)}
        assert away == {key for key in KEYS if cluster.primary_of(key) is old}
        assert store.up
        await asyncio.sleep(0.05)


# Replicas


async def test_reads_go_to_replicas_and_to_primaries_without_them(cluster: Cluster) -> None:
    async with started(cluster.url, read_replicas=True) as store:
        assert await all_written(store)
        expected = [key.encode() for key in KEYS]
        replicas = [server for server in cluster.servers if server.info("role") == "slave"]

        async def read() -> bool:
            before = [replica.calls("get") for replica in replicas]
            values = await store.mget(KEYS, replica=True)
            after = [replica.calls("get") for replica in replicas]
            return values == expected and sum(after) - sum(before) == len(KEYS)

        await eventually(read, "the replicas have it all, and are read")
        assert moved(cluster) == 0 or await store.mget(KEYS) == expected
        for replica in replicas:
            cluster.kill(replica)
        await eventually(lambda: _reads(store, expected), "the primaries are read")
        assert store.up and not store.reason


async def _reads(store: Store, expected: list[bytes]) -> bool:
    return await store.mget(KEYS, replica=True) == expected
