"""What is committed beside an offset: how far records may have been handed out, and which of them are finished.

Rules. A committed offset alone says that everything before it is finished. Where one slow client keeps its message
unfinished, all that was finished behind it would be delivered again by the next reader. So the offset's metadata tells
of these: `zpush:<taken>:<gap>+<run>,…`. No record at `offset + taken` or after it was handed out; from the offset on,
`gap` ones are unfinished, the next `run` are finished, and so on. What does not fit is left out: it is read again.

Anybody may write into metadata (an operator who resets offsets leaves it empty): what is no note is none. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice, pairwise

import msgspec

MAX_NOTE_BYTES = 3000  # offset.metadata.max.bytes of a broker is 4096
MAX_LOOKED_AT = 2000  # unfinished records; more of them hold so many runs that the rest would not fit anyway
_NOTE = re.compile(r"zpush:(\d{1,18}):((?:\d{1,18}\+\d{1,18},)*)", re.ASCII)


class Note(msgspec.Struct, frozen=True):
    """taken: no record at it or after it was handed out. finished: offsets, in order, without overlap."""

    taken: int
    finished: tuple[range, ...] = ()

    def finished_in(self, begin: int, end: int) -> int:
        """How many of the offsets from begin up to end."""
        return sum(len(range(max(run.start, begin), min(run.stop, end))) for run in self.finished)


def resume(offset: int, text: str | None, first: int, end: int) -> tuple[int, Note]:
    """Where a reader begins, and the note that holds there. offset, text: as committed; first, end: the log's."""
    if not 0 <= offset <= end:  # nothing was committed, or for a log that was longer
        return first, Note(first)
    return max(first, offset), decode(text, offset)


def gaps(unfinished: Iterable[int], end: int) -> list[range]:
    """The offsets from the first of these up to `end` that are not among them. unfinished: in order."""
    looked_at = list(islice(unfinished, MAX_LOOKED_AT + 1))
    if len(looked_at) <= MAX_LOOKED_AT:
        looked_at.append(end)
    return [gap for one, other in pairwise(looked_at) if (gap := range(one + 1, other))]


def encode(offset: int, taken: int, finished: Iterable[range]) -> str:
    text = f"zpush:{max(0, taken - offset)}:"
    at = offset
    for run in finished:
        part = f"{run.start - at}+{len(run)},"
        if len(text) + len(part) > MAX_NOTE_BYTES:
            break
        text += part
        at = run.stop
    return text


def decode(text: str | None, offset: int) -> Note:
    """offset: the one that it was committed with."""
    found = _NOTE.fullmatch(text or "")
    if found is None or len(found[0]) > MAX_NOTE_BYTES:
        return Note(offset)
    finished = []
    at = offset
    for part in found[2].split(",")[:-1]:
        gap, _, run = part.partition("+")
        finished.append(range(at + int(gap), at + int(gap) + int(run)))
        at = finished[-1].stop
    return Note(offset + int(found[1]), tuple(finished))
