"""What anybody may have written into the store: stream entries (zpush/queue/entry.py), leases (registry/lease.py)."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.fuzz.target import Target, damaged
from zpush.errors import MalformedMessage
from zpush.protocol.message import MAX_ID_BYTES, Priority, check_payload
from zpush.protocol.message import Target as Whom
from zpush.queue.entry import from_fields, to_fields
from zpush.registry import lease
from zpush.registry.base import Lease

NAMES = st.sampled_from([b"id", b"key", b"payload", b"type", b"expires", b"target", b"token", b"other", b""])
VALUES = damaged(
    st.sampled_from(
        [b"", b"c1", b"text", b"binary", b"json", b"all", b"client", b"user:u1", b"user:", b"0", b"1700000000000"]
        + [b"9" * 15, b"9" * 16, "٣".encode(), b"x" * 255, b"x" * 256, "é".encode() * 128, b"\xff", b"a\nb", b"[1]"]
    )
)
ENTRIES = st.one_of(
    st.lists(st.tuples(NAMES, VALUES), max_size=7),
    st.tuples(*(st.tuples(st.just(name), VALUES) for name in (b"id", b"key", b"payload", b"type"))).map(list),
).map(tuple)


def check_entry(pairs: tuple[tuple[bytes, bytes], ...]) -> None:
    """An entry is a message that says the same when it is written again, or malformed with the reason."""
    fields = [part for pair in pairs for part in pair]
    try:
        message = from_fields(fields, Priority.LOW, 7, "zpush.low.0", b"7-0")
    except MalformedMessage as error:
        assert error.reason
        return
    assert 0 < len(message.id.encode()) <= MAX_ID_BYTES
    assert (message.key == "") == (message.target is Whom.ALL)
    assert len(message.key.encode()) <= MAX_ID_BYTES
    check_payload(message.payload, message.kind)
    again = [part.encode() if isinstance(part, str) else part for part in to_fields(message)]
    assert from_fields(again, Priority.LOW, 7, "zpush.low.0", b"7-0") == message


LEASES = damaged(
    st.builds(
        lambda *parts: b" ".join(parts),
        st.sampled_from([b"1", b"2", b"99", b"100", b"0", b"", "١".encode()]),
        st.sampled_from([b"1", b"0", b"007", b"9" * 15, b"9" * 16, b"-1", b"", "²".encode(), "٣".encode()]),
        st.sampled_from([b"abc123", b"n", b"", b"a-b", b"a\tb", "ñ".encode()]),
        st.sampled_from([b"", b"u1", b"a b", b"a\x1fmore", "é".encode(), b"\xff", b"u\x7f"]),
    )
)


def check_lease(value: bytes) -> None:
    """A value is a lease or foreign, the quick way as by the definition; and our own is read as it was written."""
    found = lease.parse("c1", value)
    assert found == lease.parse_any("c1", value)
    if found is None:
        return
    assert found.epoch < 2**53, "Lua's numbers are doubles"
    written = f"1 {found.epoch} {found.node_id} {found.user_id}".encode()
    assert lease.parse("c1", written) == Lease("c1", found.node_id, found.epoch, found.user_id)


ENTRY = Target("entries", ENTRIES, check_entry, 150)
LEASE = Target("leases", LEASES, check_lease, 200)
