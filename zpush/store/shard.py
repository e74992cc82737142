"""A shard: the connection to its primary, and the one to a replica where reads may go there.

Rules. A replica that is away costs nothing: its primary is read instead.
"""

from __future__ import annotations

from zpush.store.link import Link
from zpush.store.pipeline import Pipeline


class Shard:
    """host: of the primary's address, as its cluster names it."""

    def __init__(self, primary: Link, replica: Link | None, host: str = "") -> None:
        self.primary = primary
        self.host = host
        self._replica = replica

    @property
    def pipeline(self) -> Pipeline:
        return self.primary.pipeline

    @property
    def reader(self) -> Pipeline:
        """For reads that may be a little old."""
        replica = self._replica
        return replica.pipeline if replica is not None and replica.up else self.primary.pipeline

    async def stop(self) -> None:
        await self.primary.stop()
        if self._replica is not None:
            await self._replica.stop()
