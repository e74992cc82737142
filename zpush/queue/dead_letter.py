"""A dead letter, as it is read: a record that could not be, and what is told about it.

Rules. Where it came from counts only as far as it is a place of ours: anybody may write a letter, and a replay must not
carry it anywhere else. Whether the record can be read is judged anew, by this version of zpush. Everything in a letter
may be anybody's bytes; who shows it escapes it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from zpush.protocol.message import Priority
from zpush.queue.receipt import MAX_MS


class DeadLetter(msgspec.Struct, frozen=True):
    """name: by which it is found again. source, place: where the record was, as the letter says.

    priority: None where the source is none of ours. problem: why the record cannot be read; "" where it can be now.
    obstacle: why it cannot be replayed; "" where it can. content: the record, for the back end that has read it.
    """

    name: str
    reason: str
    source: str
    place: str
    time_ms: int
    priority: Priority | None
    key: bytes
    id: bytes
    value: bytes
    problem: str
    obstacle: str
    content: Any = msgspec.field(default=None)


def time_of(text: str) -> int:
    """Unix ms; 0 where it is none."""
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(MAX_MS))
    return int(text) if is_number and int(text) <= MAX_MS else 0


def stranger(source: str) -> str:
    """The obstacle where the source is none of ours."""
    return f"it comes from {source[:80]!r}, which is none of this queue's" if source else "it is no letter of zpush's"
