"""A registry over a test's server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from zpush.config.settings import Registry as Settings
from zpush.registry.redis import RedisRegistry
from zpush.store import Store

LEASE_TTL_S = 60.0


@contextlib.asynccontextmanager
async def registry_at(
    url: str, lease_ttl_s: float = LEASE_TTL_S, node_ttl_s: float = 10.0
) -> AsyncIterator[tuple[RedisRegistry, Store]]:
    store = Store(url, name="test")
    registry = RedisRegistry(store, Settings(prefix="t", lease_ttl_s=lease_ttl_s, node_ttl_s=node_ttl_s))
    await registry.start()
    try:
        yield registry, store
    finally:
        await registry.stop()
