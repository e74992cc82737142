"""A presence event: a client came or went, in words that anything can read.

Rules. It is JSON; what is empty or zero is left out. On Kafka it is the value of a record whose key is the client id,
on Streams an entry with the fields `key` and `payload`. docs/presence.md tells readers what it means. Pure.
"""

from __future__ import annotations

import msgspec

CONNECTED = "connected"  # its lease is written
DISCONNECTED = "disconnected"  # with the close code
EXPIRED = "expired"  # its worker's incarnation is dead


class PresenceEvent(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """node: who holds or held the client. region: of who says so. time_ms: Unix, when it was seen."""

    event: str
    client: str
    node: str
    region: str
    epoch: int
    time_ms: int
    user: str = ""
    code: int = 0


def encode(event: PresenceEvent) -> bytes:
    return _encode(event)


_encode = msgspec.json.Encoder().encode
