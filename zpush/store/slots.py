"""What a cluster says of itself, read: who owns which slots, and where a refused command belongs.

Rules. Only the first name of a node counts, the one that the cluster wants clients to use; a node that is named by no
host is where the answer came from. What cannot be read is Unavailable: another node may do better.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from redis.crc import key_slot

from zpush.errors import Unavailable
from zpush.store.endpoint import Address
from zpush.store.replies import ReplyError

SLOTS = 16384


class Owner(msgspec.Struct, frozen=True):
    """A primary, its replicas, and a range of slots that it owns, both ends included."""

    first: int
    last: int
    address: Address
    replicas: tuple[Address, ...]


class View(msgspec.Struct, frozen=True):
    """What a node thinks of its cluster. epoch: grows with each change of owners."""

    owners: list[Owner]
    well: bool
    epoch: int


class Redirect(msgspec.Struct, frozen=True):
    """asking: this once (ASK), while the slot moves; else from now on (MOVED)."""

    asking: bool
    slot: int
    address: Address


def slot_of(key: str | bytes) -> int:
    slot: int = key_slot(key if isinstance(key, bytes) else key.encode())
    return slot


def slots_of(keys: Iterable[str | bytes]) -> list[int]:
    """The same for many, in half the time where the keys are texts without a tag."""
    return [
        crc_hqx(key.encode(), 0) % SLOTS if isinstance(key, str) and "{" not in key else slot_of(key) for key in keys
    ]


def read_view(replies: Sequence[Any], host: str) -> View:
    """The replies to CLUSTER SLOTS and CLUSTER INFO of a node at `host`."""
    slots, info = replies
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    try:
        owners = [
            Owner(first, last, _address(nodes[0], host), tuple(_address(node, host) for node in nodes[1:]))
            for first, last, *nodes in slots
        ]
        fields = dict(line.split(b":", 1) for line in info.split())
        if all(0 <= owner.first <= owner.last < SLOTS for owner in owners):
            return View(owners, fields[b"cluster_state"] == b"ok", int(fields.get(b"cluster_current_epoch", 0)))
    except (TypeError, ValueError, LookupError, AttributeError):
        pass  # said below
    raise Unavailable("answers CLUSTER SLOTS or CLUSTER INFO with something that cannot be read")


def most_credible(views: Sequence[View]) -> View:
    """A node that was cut off from the others calls the cluster down, or does so soon, and misses its changes."""
    return max(views, key=lambda view: (view.well, view.epoch))


def _address(node: Sequence[Any], host: str) -> Address:
    return (node[0] or b"").decode() or host, int(node[1])


def read_redirect(error: ReplyError, host: str) -> Redirect | None:
    """`MOVED 3999 127.0.0.1:6381` from a node at `host`; None where this is another error, or names nobody."""
    words = str(error).split(" ")
    if words[0] not in ("MOVED", "ASK") or len(words) < 3 or not words[1].isdecimal():
        return None
    named, _, port = words[2].rpartition(":")
    if named == "?" or not port.isdecimal() or int(words[1]) >= SLOTS:
        return None
    return Redirect(words[0] == "ASK", int(words[1]), (named or host, int(port)))
