"""The live nodes, as last read from the registry.

Rules. The list is read once a second at most, and not while nothing is routed: a read is asked for by whoever needs it
and travels with his look-up. Every process reads all of it, which costs the registry the square of the fleet; so
from a hundred nodes on it is read more rarely. That makes nobody wait: a node that is not in the list is asked for by
its name, and one that refuses or does not answer is taken out, at once. An older read never overwrites what is newer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from zpush.registry.base import Node, Registry

REFRESH_S = 1.0
REFRESH_PER_NODE_S = 0.01  # 10 s for 1,000 nodes


class LiveNodes:
    def __init__(self, registry: Registry) -> None:
        self._loop = asyncio.get_running_loop()
        self._registry = registry
        self._nodes: dict[str, Node] = {}
        self._next_s = float("-inf")
        self._begun = 0  # reads so far; each has its number
        self._known = 0  # a read of the whole list counts if its number is above this
        self._dropped = 0  # and one by name, if above this
        self._absent_s: dict[str, float] = {}  # asked for by name in vain: when

    def get(self, node_id: str) -> Node | None:
        return self._nodes.get(node_id)

    @property
    def stale(self) -> bool:
        """The list is old, and nobody reads it now."""
        return self._loop.time() >= self._next_s

    async def read(self) -> None:
        """RegistryUnavailable leaves what is known as it is."""
        self._wait()
        number = self._begin()
        nodes = await self._registry.nodes()
        if number > self._known:
            self._nodes, self._known = nodes, number
        self._absent_s.clear()
        self._wait()

    async def find(self, node_ids: Collection[str]) -> None:
        """Asks for these by name; get() then knows those that live."""
        number = self._begin()
        began_s = self._loop.time()
        found = await self._registry.find_nodes(node_ids)
        if found and number > self._dropped:
            self._nodes.update(found)
            self._known = max(self._known, number)
        self._absent_s.update((node_id, began_s) for node_id in node_ids if node_id not in found)

    def lately_absent(self, node_id: str) -> bool:
        """It was asked for within the last second, and was not there."""
        return self._loop.time() - self._absent_s.get(node_id, float("-inf")) < REFRESH_S

    def drop(self, node_id: str) -> bool:
        """The node is not there, whatever a read that is under way will say. False where that was known."""
        self._known = self._dropped = self._begun
        return self._nodes.pop(node_id, None) is not None

    def _begin(self) -> int:
        self._begun += 1
        return self._begun

    def _wait(self) -> None:
        self._next_s = self._loop.time() + max(REFRESH_S, REFRESH_PER_NODE_S * len(self._nodes))
