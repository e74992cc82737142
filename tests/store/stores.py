"""Stores for tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tests.support import eventually
from zpush.store import Store

REFUSED = r"refused|Connect call failed"  # uvloop's words, and asyncio's


@contextlib.asynccontextmanager
async def started(url: str, **options: Any) -> AsyncIterator[Store]:
    """Up or not."""
    store = Store(url, name="test", **options)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


async def is_up(store: Store) -> None:
    await eventually(lambda: store.up, "the store is up")


async def is_well(store: Store) -> None:
    await eventually(lambda: store.up and not store.reason, f"the store is well: {store.reason}")


async def is_down(store: Store) -> None:
    await eventually(lambda: not store.up, "the store is down")
