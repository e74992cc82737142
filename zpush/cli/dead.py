"""`zpush dead list | replay`: the records that could not be read, kept in `<prefix>.dead`.

Rules. Whatever a record holds, nothing of it steers the terminal: bytes are shown escaped and cut short. Letters are
read a batch at a time, however many there are.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from zpush.cli.common import (
    DONE,
    FAILED,
    add_config_options,
    add_json_option,
    asking_queue,
    escaped,
    lenient_stdout,
    load_settings,
    number,
    print_json,
    utc,
)
from zpush.errors import MalformedMessage, Unavailable

if TYPE_CHECKING:
    from zpush.queue.base import DeadLetters
    from zpush.queue.dead_letter import DeadLetter

LIMIT = 100
SHOWN_BYTES = 60  # of a value on a terminal
SHOWN_ID_BYTES = 64  # of a key or id
SHOWN_REASON = 200
JSON_VALUE_BYTES = 1024
TOLD_REFUSALS = 20
PROGRESS_S = 2.0


def configure(command: str, parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    shown = actions.add_parser(
        "list",
        help="show what could not be read, the oldest first",
        description="Shows dead letters that were not replayed, the oldest first: the letter's name, when it was "
        "written, where the record was, why it could not be read, its key and id, and how its value begins. "
        "With --json one object a line.",
        allow_abbrev=False,
    )
    shown.add_argument("--limit", metavar="N", type=number, default=LIMIT, help=f"at most so many (default: {LIMIT})")
    shown.add_argument("--priority", choices=("high", "normal", "low"), help="only those of this priority")
    replay = actions.add_parser(
        "replay",
        help="publish records again where they came from",
        description="Publishes records again where they came from, as they are: after the program that reads them was "
        "mended. Each is replayed once. What still cannot be read becomes a dead letter again. Exit code 1: some were "
        "not replayed, or still cannot be read.",
        allow_abbrev=False,
    )
    replay.add_argument("names", metavar="LETTER", nargs="*", help="names of letters, as `zpush dead list` shows them")
    replay.add_argument("--all", action="store_true", help="all that are there now")
    replay.add_argument("--dry-run", action="store_true", help="change nothing; tell what would be done")
    for each, run in ((shown, _list), (replay, _replay)):
        add_json_option(each)
        add_config_options(each)
        each.set_defaults(run=run)


def _list(args: argparse.Namespace) -> int:
    return _with_letters(args, lambda letters: _show(args, letters))


def _replay(args: argparse.Namespace) -> int:
    if args.all is bool(args.names):
        raise MalformedMessage("give --all or names of letters: one of them")
    return _with_letters(args, lambda letters: _replay_all(args, letters))


def _with_letters(args: argparse.Namespace, work: Callable[[DeadLetters], Coroutine[Any, Any, int]]) -> int:
    from zpush.config.secrets import queue_url  # here, so that `--help` does not wait for it
    from zpush.queue.open import open_dead_letters

    settings = load_settings(args)
    lenient_stdout()

    async def on_a_loop() -> int:
        letters = open_dead_letters(settings.queue, queue_url(settings))
        try:
            await letters.start()
            return await work(letters)
        finally:
            await letters.stop()

    with asking_queue(settings):
        return asyncio.run(on_a_loop())


# Listing


async def _show(args: argparse.Namespace, letters: DeadLetters) -> int:
    shown, progress = 0, _Progress("read", await letters.count())
    async for batch in letters.read():
        for letter in batch:
            if args.priority is not None and (letter.priority is None or letter.priority.label != args.priority):
                continue
            if shown == args.limit:
                print(f"there are more: {await letters.count()} in all, about (--limit)", file=sys.stderr)
                return DONE
            print(_as_json(letter) if args.json else _as_line(letter))
            shown += 1
        progress.made(len(batch))
    if not shown:
        print("there are none", file=sys.stderr)
    return DONE


def _as_line(letter: DeadLetter) -> str:
    parts = [
        letter.name,
        utc(letter.time_ms),
        f"{letter.source[:SHOWN_REASON] or '?'} {letter.place[:SHOWN_REASON]}".rstrip(),
        letter.reason[:SHOWN_REASON] or "no letter of zpush's",
        f"key={_text(letter.key, SHOWN_ID_BYTES)} id={_text(letter.id, SHOWN_ID_BYTES)}",
        f"{len(letter.value)} bytes: {_text(letter.value, SHOWN_BYTES)}",
    ]
    return escaped("  ".join(parts))


def _text(content: bytes, most: int) -> str:
    return content[:most].decode(errors="backslashreplace") + "…" * (len(content) > most)


def _as_json(letter: DeadLetter) -> str:
    """In ASCII; bytes are base64, of the value the first JSON_VALUE_BYTES."""
    row: dict[str, Any] = {
        "letter": letter.name,
        "time_ms": letter.time_ms,
        "source": letter.source[:SHOWN_REASON],
        "place": letter.place[:SHOWN_REASON],
        "priority": letter.priority.label if letter.priority is not None else None,
        "reason": letter.reason[:SHOWN_REASON],
        "problem": letter.problem,
        "key": base64.b64encode(letter.key[:JSON_VALUE_BYTES]).decode(),
        "id": base64.b64encode(letter.id[:JSON_VALUE_BYTES]).decode(),
        "value": base64.b64encode(letter.value[:JSON_VALUE_BYTES]).decode(),
        "value_bytes": len(letter.value),
    }
    return json.dumps(row)


# Replaying


async def _replay_all(args: argparse.Namespace, letters: DeadLetters) -> int:
    outcome = _Outcome()
    progress = _Progress("read" if args.dry_run else "replayed", await letters.count())
    async for batch in letters.read() if args.all else _named(args.names, letters, outcome):
        errors = [_obstacle(letter) for letter in batch] if args.dry_run else await letters.replay(batch)
        outcome.note(batch, errors)
        progress.made(len(batch))
        if outcome.stopped_by is not None:
            break
    outcome.tell("would replay" if args.dry_run else "replayed", args.json)
    if outcome.stopped_by is not None:
        raise Unavailable(f"{outcome.stopped_by}: the others are where they were")
    return DONE if outcome.is_clean else FAILED


async def _named(names: Sequence[str], letters: DeadLetters, outcome: _Outcome) -> AsyncIterator[list[DeadLetter]]:
    for name in names:
        letter = await letters.find(name)
        if letter is not None:
            yield [letter]
        else:
            outcome.missing += 1
            outcome.say(f"{name}: there is no such letter, or it was replayed")


def _obstacle(letter: DeadLetter) -> MalformedMessage | None:
    return MalformedMessage(letter.obstacle) if letter.obstacle else None


class _Outcome:
    """What became of the letters. stopped_by: why the queue takes no more."""

    def __init__(self) -> None:
        self.replayed = self.unreadable = self.refused = self.missing = 0
        self.stopped_by: Unavailable | None = None
        self._said = 0

    @property
    def is_clean(self) -> bool:
        return not (self.unreadable or self.refused or self.missing)

    def note(self, batch: Sequence[DeadLetter], errors: Iterable[Exception | None]) -> None:
        for letter, error in zip(batch, errors, strict=True):
            if isinstance(error, Unavailable):
                self.stopped_by = error
            elif error is not None:
                self.refused += 1
                self.say(f"{letter.name}: not replayed: {error}")
            else:
                self.replayed += 1
                if letter.problem:
                    self.unreadable += 1
                    self.say(f"{letter.name}: still cannot be read: {letter.problem}")

    def say(self, text: str) -> None:
        self._said += 1
        if self._said <= TOLD_REFUSALS:
            print(escaped(text), file=sys.stderr)
        elif self._said == TOLD_REFUSALS + 1:
            print("…", file=sys.stderr)

    def tell(self, verb: str, as_json: bool) -> None:
        numbers = {"unreadable": self.unreadable, "refused": self.refused, "missing": self.missing}
        if as_json:
            print_json({"replayed": self.replayed, **numbers})
            return
        texts = {
            "unreadable": "still cannot be read and become dead letters again",
            "refused": "could not be replayed",
            "missing": "were not found",
        }
        print("; ".join([f"{verb} {self.replayed}", *(f"{n} {texts[name]}" for name, n in numbers.items() if n)]))


class _Progress:
    """A line on standard error now and then, so that long work is seen to go on."""

    def __init__(self, verb: str, total: int) -> None:
        self._verb = verb
        self._total = total
        self._made = 0
        self._next_s = time.monotonic() + PROGRESS_S

    def made(self, count: int) -> None:
        self._made += count
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + PROGRESS_S
            print(f"{self._verb} {self._made} of about {self._total}", file=sys.stderr)
