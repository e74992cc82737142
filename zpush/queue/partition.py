"""One stream that this reader holds: what was read, handed on, finished.

Rules. A Partition is one tenure: when the lease is lost the object is dropped, and whatever still refers to
it (an answer on its way, a record being delivered) finds that it is no longer the current one. So
nothing of an earlier tenure is finished in a later one. Sans-IO: `now_s` is a parameter.

A record's way: buffer (read ahead) → outstanding (taken) → finished (outcome known) → forgotten by the server.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from zpush._fast.entry import position as numbers
from zpush._fast.entry import read
from zpush._fast.record import Record
from zpush.errors import MalformedMessage
from zpush.protocol.close import EVENT_ID
from zpush.protocol.message import Kind, Message, Priority, Target
from zpush.queue.entry import MAX_PAYLOAD_BYTES, from_fields

Entry = tuple[bytes, Sequence[bytes] | None]  # id and fields; no fields: somebody else deleted it


class Dead(msgspec.Struct, frozen=True):
    """An entry that cannot be read, and why."""

    position: bytes
    fields: Sequence[bytes]
    reason: str
    redelivered: bool


class Partition:
    """valid_until_s: monotonic time until which the lease is surely ours. mark: the last id an earlier reader got."""

    __slots__ = (
        "after", "buffer", "buffered_bytes", "burying", "dead", "finished", "finishing", "leave_by_s", "leaving",
        "mark", "more", "number", "outstanding", "priority", "reading", "seen", "stream", "token", "valid_until_s",
    )  # fmt: skip

    def __init__(
        self, priority: Priority, number: int, stream: str, token: str, mark: bytes, valid_until_s: float
    ) -> None:
        self.priority = priority
        self.number = number
        self.stream = stream
        self.token = token
        self.mark = numbers(mark)
        self.valid_until_s = valid_until_s
        self.after = b"0"  # the last id received
        self.seen = b"0"  # what the last wake-up was about
        self.more = True  # there may be entries after `after`
        self.reading = False
        self.leaving = False
        self.leave_by_s = 0.0  # counts where it is leaving
        self.buffer: deque[Record] = deque()
        self.buffered_bytes = 0
        self.outstanding: set[Record] = set()
        self.dead: list[Dead] = []
        self.burying: list[Dead] = []  # on their way to the dead letters
        self.finished: list[bytes] = []
        self.finishing: list[bytes] = []  # in the script call under way

    @property
    def wants_read(self) -> bool:
        return self.more and not self.reading and not self.leaving

    @property
    def idle(self) -> bool:
        """Read to its end: worth waiting for."""
        return not (self.more or self.reading or self.leaving)

    @property
    def settled(self) -> bool:
        """Nothing under way: it may be given up without anything being read twice."""
        return not self.outstanding and self.only_outstanding

    @property
    def only_outstanding(self) -> bool:
        """The server knows all that is known here: nothing but outcomes is waited for."""
        return not (self.reading or self.finished or self.finishing or self.dead or self.burying)

    def received(self, entries: Sequence[Entry]) -> None:
        """Entries in order. Those that cannot be read go to `dead`, those that are gone to `finished`."""
        for position, fields in entries:
            at = numbers(position)
            queued_ms = at[0] if at[0] < _LAST_MS else _LAST_MS  # noqa: FURB136 - a call costs a tenth of all this
            redelivered = at <= self.mark
            if fields is None:
                self.finished.append(position)
                continue
            try:
                message = read_message(fields, self.priority, queued_ms, self.stream, position)
            except MalformedMessage as e:
                self.dead.append(Dead(position, fields, e.reason, redelivered))
            else:
                self.buffer.append(Record(message, self.priority, self.number, position, redelivered))
                self.buffered_bytes += len(message.payload)
        if entries:
            self.after = entries[-1][0]
        elif numbers(self.seen) > numbers(self.after):
            self.after = self.seen  # the group has passed it (somebody moved it by hand): do not wake for it again

    def take(self, limit: int, now_s: float) -> list[Record]:
        """None after the lease may have gone to somebody else, and none of a stream that is being given up."""
        if self.leaving or now_s >= self.valid_until_s:
            return []
        buffer = self.buffer
        if len(buffer) <= limit:
            records = list(buffer)
            buffer.clear()
            self.buffered_bytes = 0
        else:
            records = [buffer.popleft() for _ in range(limit)]
            self.buffered_bytes -= sum(len(r.message.payload) for r in records)
        self.outstanding.update(records)
        return records

    def finish(self, records: Sequence[Record]) -> bool:
        """Leaves out records of an earlier tenure and those that were finished before. False where none is left."""
        current = [record for record in records if record in self.outstanding]
        self.outstanding.difference_update(current)
        self.finished += (record.position for record in current if isinstance(record.position, bytes))
        return bool(current)

    def read_ahead(self) -> tuple[bytes, list[bytes]]:
        """(id to go back to, ids that nobody was given): what the next reader is to get as new.

        Redelivered ones stay pending, so that they remain marked.
        """
        new = [r for r in self.buffer if not r.redelivered]
        if not new:
            return b"0", []
        assert isinstance(new[0].position, bytes)
        ms, sequence = numbers(new[0].position)
        before = (ms, sequence - 1) if sequence else (ms - 1, 2**64 - 1)
        return b"%d-%d" % before, [r.position for r in new if isinstance(r.position, bytes)]


def read_message(fields: Sequence[bytes], priority: Priority, queued_ms: int, stream: str, position: bytes) -> Message:
    """What from_fields() makes of them, which is the definition. Nearly all entries have the usual form, read in C."""
    usual = read(fields)
    if usual is None or len(usual[2]) > MAX_PAYLOAD_BYTES or usual[0].startswith(EVENT_ID):
        return from_fields(fields, priority, queued_ms, stream, position)
    message_id, client_id, payload, kind, expires_ms = usual
    return Message(message_id, client_id, payload, _KINDS[kind], _CLIENT, priority, expires_ms, queued_ms)


_LAST_MS = 2**62  # whoever writes an entry may give it any id up to 2^64
_KINDS = {int(kind): kind for kind in Kind}
_CLIENT = Target.CLIENT
