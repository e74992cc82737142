"""Server-sent events (WHATWG HTML, 9.2): bytes in, events out. Sans-IO.

Rules. Lines end in CRLF, LF or CR, and nowhere else (str.splitlines knows ten more, all of which may stand in a
payload). An event counts once its blank line is there; what the stream breaks off is dropped. An id belongs to the
event that has it: a client that drops doubles by id must not take the last id for the next event's. No event is longer
than its bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from zpush.errors import MalformedMessage

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class ServerEvent(NamedTuple):
    """name: "message" where the stream names none. id: "" where the event has none."""

    name: str
    id: str
    data: str


class EventParser:
    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._line = bytearray()  # the beginning of a line whose end has not come
        self._after_cr = False
        self._at_start = True
        self._forget()

    def _forget(self) -> None:
        self._name = self._id = ""
        self._data: list[str] = []
        self._bytes = 0

    def feed(self, data: bytes) -> Iterator[ServerEvent]:
        """The events that are complete now. MalformedMessage where one is too long; the parser is of no use then."""
        rest_of_crlf = self._after_cr and data[:1] == b"\n"
        if data:
            self._after_cr = data[-1:] == b"\r"
        if rest_of_crlf:
            data = data[1:]
        begin = 0
        for end in _LINE_END.finditer(data):
            event = self._on_line(data[begin : end.start()])
            begin = end.end()
            if event is not None:
                yield event
        self._line += data[begin:]
        self._check_size(len(self._line))

    def _on_line(self, rest: bytes) -> ServerEvent | None:
        line, self._line = bytes(self._line + rest), bytearray()
        if self._at_start:
            line, self._at_start = line.removeprefix(_BOM), False
        if not line:
            return self._on_blank_line()
        self._check_size(len(line))
        self._bytes += len(line)
        field, _, value = line.decode(errors="replace").partition(":")
        self._on_field(field, value.removeprefix(" "))
        return None

    def _on_field(self, field: str, value: str) -> None:
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        elif field == "id" and "\0" not in value:
            self._id = value

    def _on_blank_line(self) -> ServerEvent | None:
        event = ServerEvent(self._name or "message", self._id, "\n".join(self._data)) if self._data else None
        self._forget()
        return event

    def _check_size(self, line_bytes: int) -> None:
        if self._bytes + line_bytes > self._max_event_bytes:
            raise MalformedMessage(f"an event of more than {self._max_event_bytes} bytes")
