"""One shard, at the URL's own address: every command goes there, whatever its key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from zpush.errors import Unavailable
from zpush.store.endpoint import Endpoint
from zpush.store.greeting import Greeting
from zpush.store.link import Link
from zpush.store.pipeline import Future, Taker, pack
from zpush.store.shard import Shard
from zpush.store.url import Place


class Standalone:
    def __init__(
        self, place: Place, greeting: Greeting, connected: Callable[[bool], None], *, read_replicas: bool
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._place = place
        self._primary = Link(self.find_primary, place.where, greeting, connected=connected)
        replica = Link(self.find_replica, place.where, greeting, replica=True) if read_replicas else None
        self._shard = Shard(self._primary, replica)

    async def find_primary(self) -> Endpoint:
        """Asked before each connect."""
        return self._place.server

    async def find_replica(self) -> Endpoint:
        raise Unavailable("a redis:// URL names no replica")

    @property
    def up(self) -> bool:
        return self._primary.up

    @property
    def reason(self) -> str:
        return "" if self._primary.up else f"{self._primary.where}: {self._primary.reason}"

    @property
    def shard_tags(self) -> Sequence[str]:
        return ()

    async def start(self) -> None:
        await self._primary.first_attempt.wait()

    async def stop(self) -> None:
        await self._shard.stop()

    def send(self, key: str | bytes, packed: bytes, waiter: Future | Taker) -> None:
        self._primary.pipeline.send(packed, waiter)

    def send_many(self, keys: Iterable[str | bytes], packed: Sequence[bytes]) -> Future:
        return self._primary.pipeline.send_many(packed)

    async def get_many(self, keys: Sequence[str | bytes], *, replica: bool) -> list[Any]:
        """One MGET."""
        if not keys:
            return []
        pipeline = self._shard.reader if replica else self._primary.pipeline
        values = self._loop.create_future()
        pipeline.send(pack(("MGET", *keys)), _Values(values, len(keys)))
        return await values  # type: ignore[no-any-return]


class _Values:
    """Takes the reply to an MGET: where it is an error, it is every key's."""

    __slots__ = ("_future", "_size")

    def __init__(self, future: Future, size: int) -> None:
        self._future = future
        self._size = size

    def take(self, reply: Any) -> None:
        if not self._future.done():
            self._future.set_result([reply] * self._size if isinstance(reply, Exception) else reply)
