"""How the queue is laid out in Redis: names of keys, partitions, and who reads which.

Rules. A key's partition is a checksum of it, so a client's messages stand in one stream per priority,
in order. All names of one stream hash to one cluster slot. Pure: no input or output, no clock.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Collection, Sequence

import msgspec

from zpush.protocol.message import Priority


class Layout(msgspec.Struct, frozen=True):
    """Names under one prefix. The Lua scripts derive the reader's lease from the stream: `{<stream>}:reader`."""

    prefix: str
    partitions: int

    def stream(self, priority: Priority, partition: int) -> str:
        return f"{self.prefix}.{priority.label}.{partition}"

    def partition_of(self, key: str) -> int:
        return crc32(key.encode()) % self.partitions

    @property
    def dead(self) -> str:
        return f"{self.prefix}.dead"

    @property
    def receipts(self) -> str:
        return f"{self.prefix}.receipts"

    @property
    def presence(self) -> str:
        return f"{self.prefix}.presence"

    @property
    def readers(self) -> str:
        """A sorted set: member `<reader id> <priority label>,…`, score: when it is to be taken for dead."""
        return f"{self.prefix}.readers"


def member(reader_id: str, priorities: Sequence[Priority]) -> str:
    return f"{reader_id} {','.join(p.label for p in priorities)}"


def readers_of(members: Collection[str], priority: Priority) -> list[str]:
    """The ids of the readers of this priority, sorted: every reader sees the same order."""
    ids = []
    for text in members:
        reader_id, _, labels = text.partition(" ")
        if priority.label in labels.split(","):
            ids.append(reader_id)
    return sorted(ids)


def fair_share(partitions: int, readers: Sequence[str], reader_id: str) -> tuple[int, int]:
    """(how many partitions this reader is to hold, the one to begin claiming at).

    The shares of all readers add up to all partitions and differ by at most one; beginning at different
    places keeps readers that start together from claiming the same ones.
    """
    rank = readers.index(reader_id)
    share, rest = divmod(partitions, len(readers))
    return share + (rank < rest), rank * share + min(rank, rest)
