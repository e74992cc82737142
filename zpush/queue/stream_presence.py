"""Presence events on Redis Streams: all in one stream, `<prefix>.presence`, bounded by trimming."""

from __future__ import annotations

from collections.abc import Sequence

from zpush.errors import QueueUnavailable, Unavailable
from zpush.queue import scripts
from zpush.queue.layout import Layout
from zpush.queue.presence import PresenceEvent, encode
from zpush.store import ReplyError, Store


class StreamPresenceWriter:
    """Owns its store."""

    def __init__(self, store: Store, layout: Layout, keep: int) -> None:
        """keep: about how many events the stream holds."""
        self._store = store
        self._stream = layout.presence
        self._keep = keep
        self._script = store.script(scripts.APPEND)

    async def start(self) -> None:
        await self._store.start()

    async def stop(self) -> None:
        await self._store.stop()

    async def write(self, events: Sequence[PresenceEvent]) -> None:
        arguments = [part for each in events for part in (each.client, encode(each))]
        try:
            await self._store.eval(self._script, self._stream, self._keep, *arguments)
        except (ReplyError, Unavailable) as e:
            raise QueueUnavailable(str(e)) from None
