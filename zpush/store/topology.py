"""What the store asks of a topology: where each command goes, and how the servers are.

Rules. A topology knows its servers and keeps the connections; what the commands mean is not its business.
`connected(changed)` is called after each connect to a primary, and when data may be lost for another reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from zpush.store.pipeline import Future, Taker


class Topology(Protocol):
    @property
    def up(self) -> bool:
        """At least one primary takes commands."""
        ...

    @property
    def reason(self) -> str:
        """What is wrong and where; "" where all is well. One shard may be away while `up` is true for the others."""
        ...

    @property
    def shard_tags(self) -> Sequence[str]:
        """For each of several shards a hash tag whose keys it has."""
        ...

    async def start(self) -> None:
        """Returns after the first attempt, at most a few seconds."""
        ...

    async def stop(self) -> None: ...

    def send(self, key: str | bytes, packed: bytes, waiter: Future | Taker) -> None:
        """One command to whoever holds the key."""
        ...

    def send_many(self, keys: Iterable[str | bytes], packed: Sequence[bytes]) -> Future:
        """As many keys as commands. The replies in order, with errors as values."""
        ...

    async def get_many(self, keys: Sequence[str | bytes], *, replica: bool) -> list[Any]:
        """What stands under these keys: strings, None (also for other types) and errors. replica: it may be old."""
        ...
