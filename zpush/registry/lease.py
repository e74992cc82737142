"""How a lease is written down: `1 <epoch> <node id> <user id>`.

Rules. The version comes first, the user id last: it may contain anything but control characters. A later version
keeps these four fields and adds behind a control character, so that servers of two versions live beside each
other: this one reads a later version's lease, renews it as it is, and writes its own over it only as
the winner of a new handshake or repair. What does not look like this is foreign: it counts as absent.
The same shape stands as a pattern in the four scripts.
"""

from __future__ import annotations

import re

from zpush._fast.lease import Lease, read

MAX_EPOCH_DIGITS = 15  # below 2^53: Lua's numbers are doubles
_VALUE = re.compile(rf"[1-9][0-9]? ([0-9]{{1,{MAX_EPOCH_DIGITS}}}) ([!-~]+) ([^\x00-\x1f]*)")


def parse(client_id: str, value: bytes) -> Lease | None:
    """None where the value is foreign. What a look-up finds is read by read_all(), in C."""
    return read(client_id, value) or parse_any(client_id, value)


def parse_any(client_id: str, value: bytes) -> Lease | None:
    """The definition: other versions, any user id, and what is foreign."""
    found = _VALUE.match(value.decode(errors="replace"))  # the scripts do not look at the user id either
    if found is None:
        return None
    epoch, node_id, user_id = found.groups()
    return Lease(client_id, node_id, int(epoch), user_id)


def own(lease: Lease) -> str:
    """What tells a lease from every other of the same client: renew and remove compare it."""
    return f"{lease.epoch} {lease.node_id}"
