"""Dead letters on Redis Streams, read again and replayed. stream_consumer.py writes them.

Rules. An entry of `<prefix>.dead` is a letter if it begins with the four fields that zpush writes; the record's own
fields follow. A replay publishes these to the stream where they were, within its bound, and then deletes the letter:
a connection lost between the two publishes a record twice.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence

from zpush.errors import MalformedMessage, QueueFull, QueueUnavailable, Unavailable
from zpush.protocol.message import Priority
from zpush.queue import scripts
from zpush.queue.dead_letter import DeadLetter, stranger, time_of
from zpush.queue.entry import from_fields
from zpush.queue.layout import Layout
from zpush.store import Refusal, Store

BATCH = 500
BATCH_BYTES = 8 << 20
OWN = [b"reason", b"stream", b"entry", b"time"]
_NAME = re.compile(r"\d{1,15}-\d{1,15}", re.ASCII)


class StreamDeadLetters:
    """Owns its store."""

    def __init__(self, store: Store, layout: Layout, max_messages: int) -> None:
        """max_messages: the queue's bound, per priority."""
        self._store = store
        self._layout = layout
        self._dead = layout.dead
        self._bound = max(1, max_messages // layout.partitions)
        self._scan, self._publish = store.script(scripts.SCAN), store.script(scripts.PUBLISH)
        labels = "|".join(priority.label for priority in Priority)
        self._streams = re.compile(rf"{re.escape(layout.prefix)}\.({labels})\.(\d{{1,4}})", re.ASCII)

    async def start(self) -> None:
        await self._store.start()
        if not self._store.up:
            raise QueueUnavailable(self._store.reason)  # says where

    async def stop(self) -> None:
        await self._store.stop()

    async def count(self) -> int:
        number: int = await self._store.call(self._dead, "XLEN", self._dead)
        return number

    async def read(self) -> AsyncIterator[list[DeadLetter]]:
        newest = await self._store.call(self._dead, "XREVRANGE", self._dead, "+", "-", "COUNT", 1)
        after = b"0"
        while newest and (
            entries := await self._store.eval(self._scan, self._dead, after, newest[0][0], BATCH, BATCH_BYTES)
        ):
            yield [self._letter(name, fields) for name, fields in entries]
            after = entries[-1][0]

    async def find(self, name: str) -> DeadLetter | None:
        if _NAME.fullmatch(name) is None:
            raise MalformedMessage(f"a dead letter is named like 1700000000000-0, not {name[:40]!r}")
        entries = await self._store.call(self._dead, "XRANGE", self._dead, name, name)
        return self._letter(*entries[0]) if entries else None

    async def replay(self, letters: Sequence[DeadLetter]) -> list[Exception | None]:
        errors: dict[str, Exception | None] = {each.name: MalformedMessage(each.obstacle) for each in letters}
        going = [letter for letter in letters if not letter.obstacle]
        answers = await self._store.eval_many(self._publish, [self._publication(letter) for letter in going])
        errors |= {letter.name: _error(answer) for letter, answer in zip(going, answers, strict=True)}
        if published := [name for name, error in errors.items() if error is None]:
            await self._store.call(self._dead, "XDEL", self._dead, *published)
        return [errors[letter.name] for letter in letters]

    def _letter(self, name: bytes, fields: Sequence[bytes]) -> DeadLetter:
        """Of any entry that may lie there."""
        told, content = (fields[1:8:2], fields[8:]) if fields[:8:2] == OWN else ([b""] * 4, fields)
        reason, stream, entry, time = (value.decode(errors="replace") for value in told)
        values = dict(zip(content[::2], content[1::2], strict=True))
        found = self._streams.fullmatch(stream)
        priority = Priority.of(found[1]) if found else None
        return DeadLetter(
            name=name.decode(),
            reason=reason,
            source=stream,
            place=entry,
            time_ms=time_of(time),
            priority=priority,
            key=values.get(b"key", b""),
            id=values.get(b"id", b""),
            value=values.get(b"payload", b""),
            problem=_problem(content, priority or Priority.NORMAL),
            obstacle="" if found else stranger(stream),
            content=content,
        )

    def _publication(self, letter: DeadLetter) -> tuple[str | bytes | int, ...]:
        """The script's arguments. A stream that is read no more, since there are fewer now, is not its place."""
        found = self._streams.fullmatch(letter.source)
        assert found is not None and letter.priority is not None
        partition = int(found[2])
        if partition >= self._layout.partitions:
            partition = self._layout.partition_of(letter.key.decode(errors="replace"))
        stream = self._layout.stream(letter.priority, partition)
        return (stream, self._bound, len(letter.content), *letter.content)


def _problem(fields: Sequence[bytes], priority: Priority) -> str:
    try:
        from_fields(fields, priority, 0, "", b"")
    except MalformedMessage as e:
        return e.reason
    return ""


def _error(answer: object) -> Exception | None:
    """Of a script call, or None."""
    if isinstance(answer, Refusal) and answer.code == "OOM":
        return QueueFull("the queue's server is at its memory limit")
    if isinstance(answer, Unavailable):
        return QueueUnavailable(str(answer))
    if isinstance(answer, Exception):
        return answer
    return None if answer == 1 else QueueFull("its stream is full (queue.max_messages)")
