"""Behind Sentinels: who the primary is, whoever says otherwise, and whose word counts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
import redis

from tests.store.servers import Server
from tests.store.stores import REFUSED, is_well, started
from tests.store.topologies import SERVICE, Sentinels
from tests.support import eventually
from zpush.errors import Unavailable
from zpush.store import Store, sentinel

SECRET = "s3cret"
pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # servers take their time; test_topologies.py runs on both


@pytest.fixture
async def store(sentinels: Sentinels) -> AsyncIterator[Store]:
    async with started(sentinels.url) as store:
        assert store.up, store.reason
        yield store


def connects_of(store: Store) -> list[bool]:
    connects: list[bool] = []
    store.on_connect(connects.append)
    return connects


async def written(store: Store) -> bool:
    [reply] = await store.call_many([("k", ("SET", "k", "1"))])
    return bool(reply == b"OK")


async def written_to(primary: Server, store: Store) -> bool:
    """The old primary takes writes until a Sentinel has told it; these are lost."""
    return await written(store) and primary.command("GET", "k") == "1"


async def test_a_failover_is_followed(sentinels: Sentinels, store: Store) -> None:
    connects = connects_of(store)
    primary = await asyncio.to_thread(sentinels.failover)
    await eventually(lambda: written_to(primary, store), "writes go to the new primary")
    assert connects == [True]


async def test_a_dead_primary_is_replaced(sentinels: Sentinels, store: Store) -> None:
    connects = connects_of(store)
    sentinels.kill(sentinels.primary_of())
    await eventually(lambda: re.search(REFUSED, store.reason), "nobody is there")
    await asyncio.to_thread(sentinels.failover)
    await eventually(lambda: written(store), "writes are taken again")
    assert connects == [True]


async def test_sentinels_find_out_by_themselves(sentinels: Sentinels, store: Store) -> None:
    sentinels.detect_within(1000)
    old = sentinels.primary_of()
    sentinels.pause(old)
    await eventually(lambda: written(store), "writes are taken again", 60.0)
    assert sentinels.primary_of() is not old


async def test_a_primary_that_calls_itself_a_replica_is_not_believed(sentinels: Sentinels, store: Store) -> None:
    """What a demoted primary is before the Sentinels have noticed."""
    primary, replica = sentinels.primary_of(), sentinels.replica_of()
    sentinels.disturb()
    primary.command("REPLICAOF", "127.0.0.1", replica.port)
    with pytest.raises(Unavailable, match="READONLY"):
        await store.call("k", "SET", "k", "1")
    await eventually(lambda: "is a replica" in store.reason, "it was asked who it is")
    assert sentinels.primary_of() is primary and not store.up
    primary.command("REPLICAOF", "NO", "ONE")
    await is_well(store)
    assert await store.call("k", "SET", "k", "1") == b"OK"


async def test_sentinels_that_name_another_primary_are_followed_while_the_old_one_answers(
    sentinels: Sentinels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old primary that is cut off together with its clients never says that it is one no more."""
    monkeypatch.setattr(sentinel, "RECHECK_S", 0.2)
    primary, other = sentinels.primary_of(), sentinels.replica_of()
    async with started(sentinels.url) as store:
        connects = connects_of(store)
        assert await store.call("k", "SET", "k", "old") == b"OK"
        sentinels.disturb()
        other.command("REPLICAOF", "NO", "ONE")
        for each in sentinels.sentinels:
            sentinels.name(each, other)
        await eventually(lambda: other.command("CLIENT", "LIST").count("name=test"), "the store is at the other one")
        await is_well(store)
        assert await store.call("k", "SET", "k", "new") == b"OK"
        assert (primary.command("GET", "k"), other.command("GET", "k")) == ("old", "new")
        assert connects == [True]


async def test_most_sentinels_are_believed(sentinels: Sentinels) -> None:
    primary, other = sentinels.primary_of(), sentinels.replica_of()
    sentinels.disturb()
    other.command("REPLICAOF", "NO", "ONE")
    sentinels.name(sentinels.sentinels[0], other)
    for _ in range(10):
        async with started(sentinels.url) as store:
            assert store.up, store.reason
            assert await store.call("k", "INCR", "k")
    assert (primary.command("GET", "k"), other.command("GET", "k")) == ("10", None)


async def test_no_sentinel_no_connection_but_one_that_holds_is_kept(
    sentinels: Sentinels, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinel, "RECHECK_S", 0.05)
    async with started(sentinels.url) as watching:
        for each in sentinels.sentinels:
            sentinels.kill(each)
        async with started(sentinels.url) as late:
            assert not late.up
            assert re.search(rf": no Sentinel answers: 127\.0\.0\.1:\d+: .*({REFUSED})", late.reason)
            with pytest.raises(Unavailable, match="no Sentinel answers"):
                await late.call("k", "GET", "k")
            for each in (store, watching):
                assert await each.call("k", "SET", "k", "1") == b"OK"
            sentinels.heal()
            await is_well(late)


async def test_one_sentinel_is_enough_and_silent_ones_do_not_hold_it_up(sentinels: Sentinels) -> None:
    first, second, _ = sentinels.sentinels
    sentinels.kill(first)
    sentinels.pause(second)
    async with asyncio.timeout(10), started(sentinels.url) as store:
        assert store.up, store.reason


async def test_a_service_that_nobody_knows_is_named(sentinels: Sentinels) -> None:
    async with started(sentinels.url.replace(f"/{SERVICE}", "/nosuch")) as store:
        assert not store.up and "know no service 'nosuch'" in store.reason


async def test_sentinels_have_a_password_of_their_own(sentinels: Sentinels, caplog: pytest.LogCaptureFixture) -> None:
    for each in sentinels.sentinels:
        each.command("ACL", "SETUSER", "watch", "on", f">{SECRET}", "+@all")
        each.command("ACL", "SETUSER", "default", "nopass", "-@all", "+ping", "+sentinel|myid")
    sentinels.disturb()
    try:
        url = f"{sentinels.url}?sentinel_username=watch"
        async with started(f"{url}&sentinel_password={SECRET}") as store:
            assert store.up, store.reason
        async with started(f"{url}&sentinel_password={SECRET}-not") as store:
            assert not store.up and "WRONGPASS" in store.reason
        async with started(sentinels.url) as store:
            assert not store.up and "NOPERM" in store.reason
    finally:
        for each in sentinels.sentinels:
            with redis.Redis(port=each.port, username="watch", password=SECRET) as operator:
                operator.execute_command("ACL", "SETUSER", "default", "+@all")
                operator.execute_command("ACL", "DELUSER", "watch")
    assert SECRET not in "".join(str(record.__dict__) for record in caplog.records)


# Replicas


async def test_reads_go_to_the_replica_and_to_the_primary_without_it(sentinels: Sentinels) -> None:
    replica = sentinels.replica_of()
    async with started(sentinels.url, read_replicas=True) as store:
        await store.call("k", "SET", "k", "1")
        await eventually(lambda: _reads(replica, store), "the replica is read")
        assert await store.mget(["k", "none"]) == [b"1", None]
        sentinels.kill(replica)
        await eventually(lambda: _read(store), "the primary is read")


async def test_a_stale_replica_is_read_where_staleness_is_no_harm_and_nowhere_else(sentinels: Sentinels) -> None:
    replica = sentinels.replica_of()
    async with started(sentinels.url, read_replicas=True) as store:
        await eventually(lambda: _reads(replica, store), "the replica is read")
        sentinels.disturb()
        replica.command("REPLICAOF", "NO", "ONE")  # what comes now it does not hear of
        await store.call("k", "SET", "k", "new")
        await eventually(lambda: _reads(replica, store), "the replica is read")
        assert await store.mget(["k"], replica=True) == [None]
        assert await store.mget(["k"]) == [b"new"]


async def _read(store: Store) -> bool:
    return await store.mget(["k"], replica=True) == [b"1"]


async def _reads(replica: Server, store: Store) -> bool:
    before = replica.calls("mget")
    await store.mget(["k"], replica=True)
    return replica.calls("mget") > before
