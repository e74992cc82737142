"""Logging: one line per event of a process's life, for machines as JSON or for people as text.

Rules. The event's name is a constant text and what is particular stands in fields:
`log.event(logger, "worker ready", slot=1)`; so lines can be counted and searched. One line is one
`write`, appended (O_APPEND), so that processes may share a file. No line break or control character of
a value reaches the output as such. Never a token, a key or a payload; never a line per message or
connection at the default level. Nobody waits for whoever reads the log: a line that a full pipe or a stopped
terminal does not take is left out, and the next one that is written says how many were (`left_out`).
"""

from __future__ import annotations

import json
import logging
import os
import select
import stat
import sys
import time
from collections.abc import Mapping
from typing import Any

from zpush.errors import StartupError

FILE_MODE = 0o640
LOGGERS = ("zpush", "asyncio")  # asyncio's tells of defects that no caller is left to hear of
_FIELDS = "fields"  # attribute of a LogRecord

# In a sender's process it is the sender who decides what is logged, and where.
logging.getLogger("zpush").addHandler(logging.NullHandler())

_process = "zpush"
_handler: _Handler | None = None
_path = ""


def setup(level: str, format: str, file: str = "") -> None:
    """Configures our loggers; may be called again (reload). level, format, file: as in [log].

    Raises StartupError where the file cannot be opened; what was set up before stays then.
    """
    global _handler, _path
    handler = _Handler(_append_to(file) if file else sys.stderr.fileno(), owned=bool(file))
    handler.setFormatter(_Json() if _wants_json(format, handler.fd) else _Text())
    old, _handler, _path = _handler, handler, file
    for logger in map(logging.getLogger, LOGGERS):
        logger.setLevel(level.upper())
        logger.propagate = False
        logger.addHandler(handler)
        if old is not None:
            logger.removeHandler(old)
    if old is not None:
        old.close()


def reopen() -> None:
    """Opens the file anew, after it was renamed by a log rotation. Nothing to do for standard error.

    Safe in a signal handler. Where it cannot be opened, the old file is kept, and told so.
    """
    if _handler is None or not _path:
        return
    try:
        fresh = _append_to(_path)
    except StartupError as e:
        event(logging.getLogger("zpush.log"), "log file kept", logging.ERROR, reason=str(e))
        return
    # dup2 swaps the file under the handler at once: no line is lost, no handler is without a file.
    os.dup2(fresh, _handler.fd, inheritable=False)
    os.close(fresh)


def set_process(name: str) -> None:
    """Who writes from now on: "master", "worker 0", "processor 1"; part of every line."""
    global _process
    _process = name
    if _handler is not None:
        _handler.left_out = 0  # what was left out before a fork is the parent's to tell


def event(
    logger: logging.Logger,
    name: str,
    /,
    level: int = logging.INFO,
    *,
    exc_info: bool | BaseException = False,
    **fields: Any,
) -> None:
    """One line: the event's name, and fields whose values are numbers, flags or short texts."""
    logger.log(level, "%s", name, exc_info=exc_info, extra={_FIELDS: fields})


def on_loop_error(loop: object, context: Mapping[str, Any]) -> None:
    """For loop.set_exception_handler: a callback that failed, or a task whose error nobody asked for."""
    error = context.get("exception")
    if error is None:
        event(logging.getLogger("zpush.loop"), "the event loop complains", logging.ERROR, reason=context["message"])
    else:  # without the message: it holds the callback's arguments, and a payload may be one of them
        event(logging.getLogger("zpush.loop"), "a callback failed", logging.ERROR, exc_info=error)


def offer(fd: int, data: bytes) -> int:
    """Writes as much as is taken at once, and never waits. Returns how many bytes that were."""
    # A pipe that is writable takes PIPE_BUF bytes (pipe(7)). Into a file a line goes whole: others append, too.
    step = len(data) if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF
    taken = 0
    try:
        while taken < len(data) and _is_writable(fd):
            taken += os.write(fd, data[taken : taken + step])
    except OSError:
        pass  # its reader has left, or the disk is full
    return taken


def _is_writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))


class SparseLog:
    """For lines that others can cause, by being hostile or broken: one per `every_s`, whatever the event.

    `left_out` counts those not written before it.
    """

    def __init__(self, logger: logging.Logger, every_s: float = 10.0) -> None:
        self._logger = logger
        self._every_s = every_s
        self._next_s = 0.0
        self._left_out = 0

    def warning(self, name: str, /, *, exc_info: bool = False, **fields: Any) -> None:
        now_s = time.monotonic()
        if now_s < self._next_s:
            self._left_out += 1
            return
        if self._left_out:
            fields["left_out"] = self._left_out
        self._next_s = now_s + self._every_s
        self._left_out = 0
        event(self._logger, name, logging.WARNING, exc_info=exc_info, **fields)


def _append_to(path: str) -> int:
    try:
        # The mode of os.open and not the umask alone: what a log tells is not for everybody.
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    except OSError as e:
        raise StartupError(f"log.file {path}: {e.strerror}") from None


class _Handler(logging.Handler):
    """Writes to a descriptor, which it closes if it owns it."""

    def __init__(self, fd: int, owned: bool) -> None:
        super().__init__()
        self.fd = fd
        self.left_out = 0
        self._owned = owned
        self._torn = False  # a long line was taken in part

    def emit(self, record: logging.LogRecord) -> None:
        if self.left_out:
            fields = getattr(record, _FIELDS, {})
            fields = {**fields, "left_out": self.left_out + fields.get("left_out", 0)}
            setattr(record, _FIELDS, fields)
        line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        if self._torn:
            line = b"\n" + line
        taken = offer(self.fd, line)
        if taken == len(line):
            self.left_out, self._torn = 0, False
        else:
            self.left_out += 1
            self._torn = self._torn or taken > 0

    def close(self) -> None:
        super().close()
        if self._owned:
            os.close(self.fd)


def _wants_json(format: str, fd: int) -> bool:
    return format == "json" or (format == "auto" and not os.isatty(fd))


class _Json(logging.Formatter):
    """{"time", "level", "process", "pid", "logger", "event", fields…, "exception"}; no field hides another."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = dict(getattr(record, _FIELDS, {}))
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        head = {
            "time": f"{seconds}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "process": _process,
            "pid": record.process,
            "logger": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({**head, **{k: v for k, v in line.items() if k not in head}}, default=str)


class _Text(logging.Formatter):
    """`2026-01-31 12:00:00.123 info worker 0: event key=value`; an exception's lines follow, indented."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        head = f"{seconds}.{int(record.msecs):03} {record.levelname.lower()} {_process}: {_plain(record.getMessage())}"
        fields = "".join(f" {key}={_value(value)}" for key, value in getattr(record, _FIELDS, {}).items())
        trace = self.formatException(record.exc_info).splitlines() if record.exc_info else []
        return "\n    ".join([head + fields, *map(_plain, trace)])


def _value(value: Any) -> str:
    text = str(value)
    if text and text.isprintable() and not any(c in text for c in ' "='):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _plain(text: str) -> str:
    """Escaped as in JSON, to ASCII, where it holds what a terminal or a pager would not take as text."""
    return text if text.isprintable() else json.dumps(text)[1:-1]
