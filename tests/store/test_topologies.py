"""What holds for the store wherever its servers are: one, behind Sentinels, or many."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import pytest

from tests.store.stores import REFUSED, is_down, is_well, started
from tests.store.topologies import Topology
from tests.support import eventually
from zpush.errors import Unavailable
from zpush.store import ReplyError, Store

SECRET = "s3cret"
KEYS = [f"k{i}" for i in range(300)]


@pytest.fixture
async def store(topology: Topology) -> AsyncIterator[Store]:
    async with started(topology.url) as store:
        assert store.up and not store.reason, store.reason
        yield store


# Calls


async def test_answers_of_one_key_come_in_order(store: Store) -> None:
    calls = [store.call("n", "INCRBY", "n", i) for i in range(200)]
    assert await asyncio.gather(*calls) == [sum(range(i + 1)) for i in range(200)]


async def test_call_many_gives_errors_as_values(store: Store) -> None:
    replies = await store.call_many([("a", ("SET", "a", "x")), ("a", ("INCR", "a")), ("b", ("GET", "b"))])
    assert replies[0] == b"OK" and replies[2] is None
    assert isinstance(replies[1], ReplyError) and not isinstance(replies[1], Unavailable)
    assert await store.call_many([]) == []


async def test_a_batch_over_all_shards_keeps_its_order(store: Store) -> None:
    assert set(await store.call_many([(key, ("SET", key, key)) for key in KEYS])) == {b"OK"}
    assert await store.call_many([(key, ("GET", key)) for key in KEYS]) == [key.encode() for key in KEYS]
    assert await store.mget(["none", *KEYS, "none"]) == [None, *(key.encode() for key in KEYS), None]


async def test_mget_takes_what_is_no_string_as_absent(store: Store) -> None:
    await store.call_many([("a", ("SET", "a", "1")), ("l", ("LPUSH", "l", "1")), ("c", ("SET", b"c", b"\xff"))])
    assert await store.mget(["c", "b", "l", b"a"]) == [b"\xff", None, None, b"1"]
    assert await store.mget([]) == []


async def test_a_cancelled_caller_does_not_shift_the_replies_of_others(store: Store) -> None:
    first, second, third = (store.call("n", "INCR", "n") for _ in range(3))
    many = store.call_many([(key, ("SET", key, "1")) for key in KEYS])
    second.cancel()
    many.cancel()
    assert (await first, await third) == (1, 3)
    assert await store.mget(KEYS) == [b"1"] * len(KEYS)


async def test_an_unknown_command_does_not_repeat_its_arguments(store: Store) -> None:
    with pytest.raises(ReplyError) as refused:
        await store.call("k", "NOSUCH", "k", SECRET)
    assert SECRET not in str(refused.value)


async def test_a_script_that_was_forgotten_is_brought_back(topology: Topology) -> None:
    store = Store(topology.url, name="test")
    script = store.script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    await store.start()
    try:
        assert await store.eval(script, "n", 1) == 1
        flush(topology)
        assert await asyncio.gather(*(store.eval(script, "n", i) for i in (1, 2, 3))) == [2, 4, 7]
        flush(topology)
        assert await store.eval_many(script, [("n", 1), *((key, 2) for key in KEYS), ("n", 1)]) == [8, *[2] * 300, 9]
        for server in topology.primaries():
            assert server.command("SCRIPT", "EXISTS", script.sha) == [True]
    finally:
        await store.stop()


def flush(topology: Topology) -> None:
    for server in topology.primaries():
        server.command("SCRIPT", "FLUSH")


async def test_an_error_in_a_script_is_a_reply_error(store: Store) -> None:
    await store.call("l", "LPUSH", "l", "1")
    script = store.script("return redis.call('INCR', KEYS[1])")
    with pytest.raises(ReplyError, match="WRONGTYPE"):
        await store.eval(script, "l")
    replies = await store.eval_many(script, [("n",), ("l",)])
    assert replies[0] == 1 and isinstance(replies[1], ReplyError)


# Who we are


async def test_the_name_is_shown(topology: Topology, store: Store) -> None:
    assert b" name=test " in await store.call("k", "CLIENT", "INFO")


async def test_a_user_of_an_acl(topology: Topology, caplog: pytest.LogCaptureFixture) -> None:
    for server in topology.servers:
        server.command("ACL", "SETUSER", "push", "on", f">{SECRET}", "~p:*", "+@all", "-flushall")
    scheme, _, rest = topology.url.partition("://")
    with caplog.at_level(logging.DEBUG):
        async with started(f"{scheme}://push:{SECRET}@{rest}") as limited:
            assert limited.up, limited.reason
            assert await limited.call("p:1", "SET", "p:1", "x") == b"OK"
            with pytest.raises(ReplyError, match="NOPERM"):
                await limited.call("q", "GET", "q")
        async with started(f"{scheme}://push:{SECRET}-not@{rest}") as wrong:
            assert not wrong.up and "WRONGPASS" in wrong.reason
            with pytest.raises(Unavailable):
                await wrong.call("p:1", "GET", "p:1")
    said = [str(record.__dict__) for record in caplog.records]
    assert any("WRONGPASS" in line for line in said)
    assert SECRET not in "".join(said) + wrong.reason


# Servers that go and come


async def test_a_primary_that_dies_is_down_for_its_keys_and_comes_back_as_another(
    topology: Topology, store: Store
) -> None:
    connects: list[bool] = []
    store.on_connect(connects.append)
    topology.kill(topology.primary_of("k"))
    await eventually(lambda: store.reason, "something is wrong")
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable):
            await store.call("k", "GET", "k")
        assert isinstance((await store.call_many([("k", ("GET", "k"))]))[0], Unavailable)
        assert isinstance((await store.mget(["k"]))[0], Unavailable)
    topology.restart(topology.primary_of("k"))
    await eventually(lambda: taken(store), "a command is taken")
    await is_well(store)
    assert True in connects


async def taken(store: Store) -> bool:
    """A node that is back in its cluster refuses for another two seconds."""
    [reply] = await store.call_many([("k", ("SET", "k", "1"))])
    return bool(reply == b"OK")


async def test_absent_at_start_then_there(topology: Topology) -> None:
    for server in topology.servers:
        topology.kill(server)
    connects: list[bool] = []
    store = Store(topology.url, name="test")
    store.on_connect(connects.append)
    async with asyncio.timeout(10):
        await store.start()
    try:
        assert not store.up and "127.0.0.1:" in store.reason + store.where
        with pytest.raises(Unavailable):
            await store.call("k", "GET", "k")
        topology.heal()
        await is_well(store)
        assert await store.call("k", "GET", "k") is None
        assert connects and not any(connects)
    finally:
        await store.stop()


async def test_a_silent_server_is_a_lost_connection(topology: Topology) -> None:
    async with started(topology.url, reply_timeout_s=0.5) as store:
        topology.pause(topology.primary_of("k"))
        async with asyncio.timeout(10):
            with pytest.raises(Unavailable, match=r"no reply within 0\.5 s"):
                await store.call("k", "GET", "k")
        assert store.reason
        topology.heal()
        await is_well(store)
        assert await store.call("k", "GET", "k") is None


async def test_memory_that_is_full_refuses_writes_alone(topology: Topology, store: Store) -> None:
    await store.call("k", "SET", "k", "1")
    topology.primary_of("k").command("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(Unavailable, match="OOM"):
        await store.call("k", "SET", "k", "2")
    assert await store.call("k", "GET", "k") == b"1" and store.up


async def test_stop_tells_who_waits(store: Store) -> None:
    waiting = store.call("none", "BLPOP", "none", 0)
    await asyncio.sleep(0)
    await store.stop()
    with pytest.raises(Unavailable):
        await waiting
    assert not store.up


# The wrong kind


@pytest.mark.parametrize(
    ("kind", "scheme", "tail", "answer"),
    [
        ("cluster", "redis", "", "is a node of a cluster; its URL begins with redis+cluster://"),
        ("valkey", "redis+cluster", "", "is a standalone server; its URL begins with redis://"),
        ("redis", "redis+cluster", "", "is a standalone server; its URL begins with redis://"),
        ("valkey", "redis+sentinel", "/main", "is a standalone server; its URL begins with redis://"),
        ("cluster", "redis+sentinel", "/main", "is a node of a cluster; its URL begins with redis+cluster://"),
    ],
)
async def test_a_server_of_another_kind_is_named(
    topologies: Callable[[str], Topology], kind: str, scheme: str, tail: str, answer: str
) -> None:
    address = topologies(kind).primary_of("k").address
    async with asyncio.timeout(10), started(f"{scheme}://{address}{tail}") as store:
        assert not store.up
        assert answer in store.reason and address in store.reason + store.where
        with pytest.raises(Unavailable) as refused:
            await store.call("k", "GET", "k")
        assert address in str(refused.value)


async def test_nobody_there_is_named_within_seconds() -> None:
    for url in ("redis://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/main", "redis+cluster://127.0.0.1:1"):
        async with asyncio.timeout(10), started(url) as store:
            await is_down(store)
            with pytest.raises(Unavailable, match=rf"127\.0\.0\.1:1\b.*({REFUSED})"):
                await store.call("k", "GET", "k")
