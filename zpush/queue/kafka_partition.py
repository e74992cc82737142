"""One Kafka partition that this reader holds: what was handed out, what is finished, and what to commit.

Rules. A Partition is one tenure: when the partition is revoked the object is dropped, and a record of it that is
finished later finds no place. The offset to commit is the first unfinished one's, so nothing unfinished is ever behind
it; the note beside it (kafka_note.py) tells what is finished nevertheless.

Nothing is handed out before a commit has announced it: each note reserves a stretch of offsets in advance. So whoever
reads the partition next knows which records may have been taken by somebody, also after a kill -9: those before `mark`
are redelivered. An orderly hand-over says exactly how far it went. Sans-IO.

Offsets have gaps: aborted transactions, records that retention deleted under a reader that lags. One that is wider than
what is announced is never used up by records; `reach` takes the partition to its far side.

A record's way: handed out → outstanding → finished (outcome known).
"""

from __future__ import annotations

from collections import deque

import msgspec

from zpush._fast.taking import Book
from zpush.queue import kafka_note
from zpush.queue.kafka_note import Note

LEAST_AHEAD = 1000  # offsets that a note reserves at least; after a crash so many may be called redelivered in vain
Key = tuple[str, int]  # topic and number


class Tenure(msgspec.Struct, frozen=True):
    """A partition as it was found when it was assigned. end: offset of the next record to be written."""

    key: Key
    offset: int
    note: Note
    end: int


class Commit(msgspec.Struct, frozen=True):
    """taken: what is announced once this is committed."""

    key: Key
    offset: int
    note: str
    taken: int


class Partition(Book):
    """ident: Record.partition, unique within a priority. What every record passes is in C: Book."""

    __slots__ = ("_next_then", "_said")

    def __init__(self, tenure: Tenure, ident: int) -> None:
        self.key = tenure.key
        self.ident = ident
        self.mark = min(tenure.note.taken, tenure.end)  # what did not exist yet was taken by nobody
        self.outstanding = {}  # by offset, in order
        self.leaving = False
        self._next = tenure.offset  # behind the last record that came by
        self._next_then = tenure.offset  # at the last commit
        self._finished = deque(tenure.note.finished)  # by an earlier reader, at _next or after it
        self._announced = tenure.offset  # what lies before it may be handed out
        self._said: Commit | None = None  # committed last

    def wants(self, offset: int) -> bool:
        """False for what an earlier reader has finished."""
        while self._finished and self._finished[0].stop <= offset:
            self._finished.popleft()
        return not (self._finished and offset in self._finished[0])

    def reach(self, offset: int) -> range:
        """The next record that there is. Returns the offsets in between, which are nobody's."""
        gap = range(self._next, offset)
        self._next += len(gap)
        self._next_then += len(gap)  # nothing was handed out: the next note reserves no more for it
        return gap

    def commit(self) -> Commit | None:
        """What is to be committed now; None where nothing has changed."""
        commit = self._progress(self._reserve())
        return commit if commit != self._said else None

    def last_commit(self) -> Commit:
        """When it is given up: what was taken, and no more."""
        return self._progress(self._next)

    def committed(self, commit: Commit) -> None:
        self._said = commit
        self._announced = commit.taken

    def suspend(self) -> None:
        """Nothing more is handed out until the next commit is answered: that alone proves whose partition it is."""
        self._announced = min(self._announced, self._next)
        self._said = None

    def _reserve(self) -> int:
        """Four times what was handed out since the last time: the next commit comes long before it is used up."""
        ahead = max(LEAST_AHEAD, 4 * (self._next - self._next_then))
        self._next_then = self._next
        return self._next + ahead if self._announced - self._next < ahead // 2 else self._announced

    def _progress(self, taken: int) -> Commit:
        later = deque(self._finished)
        reached = self._next  # and what an earlier reader has finished right behind it: it may have yet to come by
        while later and later[0].start <= reached:
            reached = max(reached, later.popleft().stop)
        offset = next(iter(self.outstanding), reached)
        finished = [*kafka_note.gaps(self.outstanding, reached), *later]
        # An earlier reader may have handed out what this one has not come to.
        note = kafka_note.encode(offset, max(taken, reached, self.mark), finished)
        return Commit(self.key, offset, note, taken)
