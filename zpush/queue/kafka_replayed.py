"""Which dead letters of a partition were replayed. Kafka deletes nothing, so that is remembered as a committed offset.

Rules. Everything before the offset was replayed; the note beside it (kafka_note.py) tells which of the later ones were.
Where more stretches are to be remembered than a note has room for, the last ones are forgotten. Sans-IO.
"""

from __future__ import annotations

from zpush.queue import kafka_note
from zpush.queue.kafka_note import Note


class Replayed:
    """offset: the first letter that was not replayed, or would be. oldest: of those that are still there."""

    def __init__(self, note: Note, offset: int, oldest: int) -> None:
        """offset: the committed one, negative where there is none."""
        self.offset = max(0, oldest, offset)
        self._later = sorted(note.finished, key=lambda run: run.start)
        self._absorb()

    def __contains__(self, offset: int) -> bool:
        return offset < self.offset or any(offset in run for run in self._later)

    def left(self, end: int) -> int:
        """How many before `end` were not replayed."""
        later = sum(len(range(max(run.start, self.offset), min(run.stop, end))) for run in self._later)
        return max(0, end - self.offset - later)

    def begin_at(self, offset: int) -> None:
        """No letter that was not replayed lies before it."""
        self.offset = max(self.offset, offset)
        self._absorb()

    def add(self, offset: int) -> None:
        if offset in self:
            return
        self._later = sorted([*self._later, range(offset, offset + 1)], key=lambda run: run.start)
        self._absorb()

    def note(self) -> str:
        return kafka_note.encode(self.offset, self.offset, self._later)

    def _absorb(self) -> None:
        """Runs that touch become one, and those that touch the offset move it."""
        runs: list[range] = []
        for run in self._later:
            if run.start <= self.offset:
                self.offset = max(self.offset, run.stop)
            elif runs and run.start <= runs[-1].stop:
                runs[-1] = range(runs[-1].start, max(runs[-1].stop, run.stop))
            else:
                runs.append(run)
        self._later = runs
