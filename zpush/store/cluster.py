"""A cluster: every command goes to the shard that its key's slot belongs to.

Rules. A batch costs one round trip per shard, in parallel. Commands follow MOVED (which also corrects the map) and ASK
(this once), a few times at most; only those that were refused, the others of their batch have their replies. One
shard that is away is away for its own keys alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from zpush.store.cluster_map import ClusterMap
from zpush.store.greeting import Greeting
from zpush.store.pipeline import Future, Taker, pack
from zpush.store.replies import ReplyError
from zpush.store.routed import Routed, Spread
from zpush.store.shard import Shard
from zpush.store.slots import read_redirect, slot_of, slots_of
from zpush.store.url import Place
from zpush.tasks import Tasks

MAX_HOPS = 5
ASKING = pack(("ASKING",))
log = logging.getLogger("zpush.store")


class Cluster:
    def __init__(
        self, place: Place, greeting: Greeting, connected: Callable[[bool], None], *, read_replicas: bool
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._map = ClusterMap(place, greeting, connected, read_replicas)
        self._tasks = Tasks(log)

    @property
    def up(self) -> bool:
        return self._map.up

    @property
    def reason(self) -> str:
        return self._map.reason

    @property
    def shard_tags(self) -> Sequence[str]:
        return self._map.tags

    async def start(self) -> None:
        await self._map.first_look.wait()

    async def stop(self) -> None:
        await self._tasks.cancel()
        await self._map.stop()

    def send(self, key: str | bytes, packed: bytes, waiter: Future | Taker) -> None:
        shard = self._map.by_slot[slot_of(key)]
        if shard is None:
            self._map.nobody.send(packed, waiter)
        else:
            shard.pipeline.send(packed, Routed(self, packed, waiter, shard.host))

    def send_many(self, keys: Iterable[str | bytes], packed: Sequence[bytes]) -> Future:
        return self._spread(keys, packed, replica=False)

    async def get_many(self, keys: Sequence[str | bytes], *, replica: bool) -> list[Any]:
        """A GET each: the keys of an MGET must share a slot, not just a shard."""
        replies = await self._spread(keys, [pack(("GET", key)) for key in keys], replica)
        return [None if isinstance(reply, ReplyError) and reply.code == "WRONGTYPE" else reply for reply in replies]

    def _spread(self, keys: Iterable[str | bytes], packed: Sequence[bytes], replica: bool) -> Future:
        by_slot = self._map.by_slot
        parts: dict[Shard | None, list[int]] = {}
        for place, slot in enumerate(slots_of(keys)):
            shard = by_slot[slot]
            part = parts.get(shard)
            if part is None:
                parts[shard] = [place]
            else:
                part.append(place)
        future = self._loop.create_future()
        spread = Spread(self, packed, len(parts), future)
        for shard, places in parts.items():
            pipeline = self._map.nobody if shard is None else shard.reader if replica else shard.pipeline
            replies = pipeline.send_many([packed[place] for place in places])
            replies.add_done_callback(partial(spread.arrived, "" if shard is None else shard.host, places))
        if not parts:
            future.set_result([])
        return future

    # Redirects (routed.Follower)

    def follow(self, routed: Routed, error: ReplyError) -> bool:
        if error.code == "CLUSTERDOWN":
            self._map.look_again()
            return False
        redirect = read_redirect(error, routed.host)
        if redirect is None or routed.hops >= MAX_HOPS:
            return False
        shard = self._map.shard_at(redirect.address)
        if not redirect.asking:
            self._map.moved(redirect.slot, shard)
        routed.hops += 1
        routed.host = shard.host
        if shard.primary.first_attempt.is_set():
            _send_on(shard, routed, redirect.asking)
        else:
            self._tasks.spawn(_send_on_later(shard, routed, redirect.asking))
        return True


async def _send_on_later(shard: Shard, routed: Routed, asking: bool) -> None:
    """A node that was not known yet. Where the store is stopped meanwhile, its pipeline refuses."""
    try:
        await shard.primary.first_attempt.wait()
    finally:
        _send_on(shard, routed, asking)


def _send_on(shard: Shard, routed: Routed, asking: bool) -> None:
    if asking:
        shard.pipeline.send(ASKING, _UNHEARD)
    shard.pipeline.send(routed.packed, routed)


class _Unheard:
    """Takes a reply that nobody waits for."""

    def take(self, reply: Any) -> None:
        return


_UNHEARD = _Unheard()
