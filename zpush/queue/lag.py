"""How far behind the queue is, with or without a consumer: one small script call per stream, in one write."""

from __future__ import annotations

from zpush.errors import QueueUnavailable
from zpush.protocol.message import Priority
from zpush.queue import scripts
from zpush.queue.base import Lag
from zpush.queue.layout import Layout
from zpush.store import Store


class LagReader:
    """Make it before the store starts: it brings a script."""

    def __init__(self, store: Store, layout: Layout) -> None:
        self._store = store
        self._layout = layout
        self._script = store.script(scripts.LAG)

    async def read(self) -> dict[Priority, Lag]:
        """Every priority, by the server's clock; QueueUnavailable where the server is away."""
        streams = [(p, self._layout.stream(p, n)) for p in Priority for n in range(self._layout.partitions)]
        replies = await self._store.eval_many(self._script, [(stream,) for _, stream in streams])
        messages, age_ms = dict.fromkeys(Priority, 0), dict.fromkeys(Priority, 0)
        for (priority, _), reply in zip(streams, replies, strict=True):
            if isinstance(reply, Exception):
                raise QueueUnavailable(str(reply))
            messages[priority] += reply[0]
            age_ms[priority] = max(age_ms[priority], reply[1])
        return {p: Lag(messages[p], age_ms[p] / 1000) for p in Priority}
