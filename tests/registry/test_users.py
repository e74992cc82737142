"""A user's devices: several clients of one user, bounded, gone by expiry."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from tests.store.topologies import Topology
from tests.support import Valkey
from zpush.config.settings import Registry as Settings
from zpush.errors import RegistryUnavailable
from zpush.registry.base import Lease, Renewal
from zpush.registry.redis import RedisRegistry
from zpush.store import Script, Store

A, B = "aaaaaaaaaa", "bbbbbbbbbb"
NOW_MS = 1_700_000_000_000
MOST = 3


@contextlib.asynccontextmanager
async def small(url: str) -> AsyncIterator[tuple[RedisRegistry, Store]]:
    """A registry that keeps MOST devices of a user."""
    store = Store(url, name="test")
    registry = RedisRegistry(store, Settings(prefix="t", user_devices=MOST))
    await registry.start()
    try:
        yield registry, store
    finally:
        await registry.stop()


async def test_a_user_with_too_many_devices_keeps_those_seen_last(
    topology: Topology, caplog: pytest.LogCaptureFixture
) -> None:
    async with small(topology.url) as (registry, store):
        for number in range(10):
            await registry.register(f"c{number}", "hoarder", A, NOW_MS)
            await store.call(
                "t:user:hoarder", "ZINCRBY", "t:user:hoarder", number - 100, f"c{number}"
            )  # it was some time ago
        assert sorted(await registry.user_clients("hoarder")) == ["c7", "c8", "c9"]
        assert await store.call("t:user:hoarder", "ZCARD", "t:user:hoarder") == MOST
        assert registry.crowded == 7
        [said] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert "registry.user_devices" in said and "hoarder" not in said

        assert len([lease for lease in await registry.look_up([f"c{i}" for i in range(10)]) if lease]) == 10
        await registry.renew([Lease("c0", A, NOW_MS, "hoarder")])
        assert sorted(await registry.user_clients("hoarder")) == ["c0", "c8", "c9"], "seen last"


async def test_a_renewal_of_very_many_devices_of_one_user(topology: Topology) -> None:
    leases = [Lease(f"c{number}", A, NOW_MS, "hoarder") for number in range(5000)]
    async with small(topology.url) as (registry, store):
        await registry.renew(leases)
        assert await store.call("t:user:hoarder", "ZCARD", "t:user:hoarder") == MOST


async def test_leases_and_users_are_renewed_in_one_round_trip(
    topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = [Lease(f"c{number}", A, NOW_MS, f"u{number}") for number in range(10)]
    async with small(topology.url) as (registry, store):
        await registry.register_many(leases)
        eval_many, events = store.eval_many, []

        async def noted(script: Script, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
            events.append("asked")
            replies = await eval_many(script, calls)
            events.append("answered")
            return replies

        monkeypatch.setattr(store, "eval_many", noted)
        assert await registry.renew(leases) == [Renewal.EXTENDED] * 10
        assert events == ["asked", "asked", "answered", "answered"]


async def test_a_device_that_is_dead_leaves_before_one_that_lives(topology: Topology) -> None:
    async with small(topology.url) as (registry, store):
        for number in range(MOST):
            await registry.register(f"dead{number}", "ann", A, NOW_MS)
        await store.call("t:user:ann", "ZADD", "t:user:ann", 1, "dead0", 2, "dead1")
        await registry.register("phone", "ann", A, NOW_MS)
        assert sorted(await registry.user_clients("ann")) == ["dead2", "phone"]
        assert registry.crowded == 0, "they had expired"


async def test_devices_of_one_user_do_not_replace_each_other(topology: Topology) -> None:
    async with small(topology.url) as (registry, _):
        phone = await registry.register("phone", "ann", A, NOW_MS)
        laptop = await registry.register("laptop", "ann", B, NOW_MS)
        assert phone.replaced is None and laptop.replaced is None  # type: ignore[union-attr]
        assert await registry.user_clients("ann") == {
            "phone": Lease("phone", A, NOW_MS, "ann"),
            "laptop": Lease("laptop", B, NOW_MS, "ann"),
        }


async def test_a_full_server_still_renews_the_leases_of_users(valkey: Valkey) -> None:
    async with small(valkey.url) as (registry, store):
        lease = Lease("c", A, NOW_MS, "ann")
        await registry.register_late(lease)
        await store.call("", "CONFIG", "SET", "maxmemory", 1)
        assert await registry.renew([lease]) == [Renewal.EXTENDED]
        with pytest.raises(RegistryUnavailable, match="OOM"):
            await registry.register_late(lease)


async def test_an_entry_that_is_refused_fails_its_lease(valkey: Valkey) -> None:
    """The lease would be there and the user's push would not find it: so neither counts as written."""
    async with small(valkey.url) as (_, store):
        await store.call("", "ACL", "SETUSER", "half", "on", ">pw", "~t:lease:*", "+@all")
        other = Store(f"unix://half:pw@{valkey.socket_path}", name="test")
        half = RedisRegistry(other, Settings(prefix="t"))
        await half.start()
        for call in (half.register("c", "ann", A, NOW_MS), half.register_late(Lease("c", A, NOW_MS, "ann"))):
            with pytest.raises(Exception, match="NOPERM|permission|ACL"):
                await call
        await half.register("c", "", A, NOW_MS)
        await half.stop()
