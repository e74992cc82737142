"""Whether a shard of a cluster has lost its data: a mark on each, which is gone with everything else on it.

Rules. A mark never expires. Where one is missing leases may be missing too, and no miss is final. A worker that finds
one missing, or another than it saw before, has lost leases there: it says that it repairs, and only then writes the
mark. Another worker knows by the new mark what it has missed. On a server that is no cluster nodes.py's own keys
tell as much, and there are no marks. A shard that is away says nothing: who is looked up there is not missed.
"""

from __future__ import annotations

import logging
import secrets

from zpush.config.settings import Registry as Settings
from zpush.log import event
from zpush.store import Store

_log = logging.getLogger("zpush.registry")


class ShardMarks:
    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._prefix = settings.prefix
        self._seen: dict[str, bytes] = {}

    async def all_there(self) -> bool:
        return None not in await self._store.mget(self._keys())

    async def unchanged(self) -> bool:
        """Since the last call. One that is missing is told again each time, until somebody writes it."""
        keys = self._keys()
        lost: list[str] = []
        for key, mark in zip(keys, await self._store.mget(keys), strict=True):
            if mark is None:
                lost.append(key)
            elif isinstance(mark, bytes):
                if self._seen.get(key, mark) != mark:
                    lost.append(key)
                self._seen[key] = mark
        if lost:
            event(_log, "shards of the registry have lost their data, or are new", logging.WARNING, marks=lost)
        return not lost

    async def write(self) -> None:
        """Those that are missing. The worker has said that it repairs."""
        mark = secrets.token_hex(8)
        keys = self._keys()
        await self._store.call_many([(key, ("SET", key, mark, "NX")) for key in keys])
        found = await self._store.mget(keys)
        self._seen.update((key, mark) for key, mark in zip(keys, found, strict=True) if isinstance(mark, bytes))

    def _keys(self) -> list[str]:
        return [f"{self._prefix}:{{{tag}}}:mark" for tag in self._store.shard_tags]
