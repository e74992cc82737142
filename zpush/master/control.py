"""The control socket: how `zpush status` and `zpush reload` talk to a running master.

Rules. One request a connection, one answer, the end: a line of JSON each way, `{"cmd": "status"}`. The
socket's mode lets only its owner in. The master never waits for a caller: everything is non-blocking,
sizes, callers and time are bounded, and who does not keep to that is cut off. An answer may take its time, which
is then the handler's to bound. A socket file that nobody answers on is a dead run's and is taken over.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import struct
from collections.abc import Callable, Mapping
from typing import Any

from zpush.errors import StartupError, Unavailable
from zpush.master.reactor import Reactor

MAX_REQUEST_BYTES = 4096
MAX_ANSWER_BYTES = 4 << 20  # a row per process is some 200 B
READ_BYTES = 65536
MAX_CALLERS = 16
CALL_S = 5.0
REST_S = 1.0

Answer = Mapping[str, Any]
Reply = Callable[[Answer], None]  # the answer, now or later; once
Handler = Callable[[Mapping[str, Any], Reply], None]


class Control:
    """The listening side."""

    def __init__(self, reactor: Reactor, setting: str, path: str, handler: Handler) -> None:
        """setting: names the path. Raises StartupError where it is a live run's, or cannot be made."""
        self.path = path
        self.reactor = reactor
        self.handler = handler
        self.callers: set[_Caller] = set()
        self._socket = _listen(setting, path)
        self._open()

    def _open(self) -> None:
        if self._socket.fileno() >= 0:
            self.reactor.watch(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:  # the caller has gone
            return
        except OSError:  # no descriptor is free: a level-triggered listener would spin until one is
            self.reactor.unwatch(self._socket.fileno())
            self.reactor.call_later(REST_S, self._open)
            return
        connection.setblocking(False)
        if len(self.callers) >= MAX_CALLERS:
            connection.close()
        else:
            self.callers.add(_Caller(self, connection))

    def close(self) -> None:
        for caller in list(self.callers):
            caller.close()
        self.reactor.unwatch(self._socket.fileno())
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def close_in_child(self) -> None:
        """The descriptors only: the file and the callers stay the master's."""
        self._socket.close()
        for caller in self.callers:
            caller.connection.close()


class _Caller:
    """One connection: reads a line, answers, ends."""

    def __init__(self, control: Control, connection: socket.socket) -> None:
        self.connection = connection
        self._control = control
        self._incoming = b""
        self._outgoing = b""
        self._timer = control.reactor.call_later(CALL_S, self.close)
        control.reactor.watch(connection.fileno(), self._read)

    def close(self) -> None:
        self._timer.cancel()
        self._control.callers.discard(self)
        self._control.reactor.unwatch(self.connection.fileno())
        self.connection.close()

    def _read(self) -> None:
        try:
            data = self.connection.recv(READ_BYTES)
        except OSError:
            data = b""
        self._incoming += data
        line, end, _ = self._incoming.partition(b"\n")
        if end or len(self._incoming) > MAX_REQUEST_BYTES:
            self._timer.cancel()
            self._control.reactor.unwatch(self.connection.fileno())
            self._handle(line)
        elif not data:
            self.close()

    def _handle(self, line: bytes) -> None:
        if len(line) > MAX_REQUEST_BYTES:
            self._reply({"error": f"the request is longer than {MAX_REQUEST_BYTES} bytes"})
            return
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        if isinstance(request, dict):
            self._control.handler(request, self._reply)
        else:
            self._reply({"error": "the request is not a JSON object in one line"})

    def _reply(self, answer: Answer) -> None:
        if self in self._control.callers:
            self._outgoing = json.dumps(answer).encode() + b"\n"
            self._timer = self._control.reactor.call_later(CALL_S, self.close)
            self._control.reactor.watch(self.connection.fileno(), self._write, write=True)

    def _write(self) -> None:
        try:
            sent = self.connection.send(self._outgoing)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._outgoing = self._outgoing[sent:]
        if not self._outgoing:
            self.close()


def ask(path: str, command: str, timeout_s: float = CALL_S) -> dict[str, Any]:
    """The caller's side. Raises Unavailable where no master answers."""
    nobody = f"{path}: no running zpush answers here"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(path)
            connection.sendall(json.dumps({"cmd": command}).encode() + b"\n")
            data = _read_all(connection)
        except PermissionError:
            raise Unavailable(f"{path}: this user may not control that zpush") from None
        except OSError as e:
            raise Unavailable(f"{nobody} ({e.strerror or e}); is `zpush serve` started with this data_dir?") from None
    try:
        answer = json.loads(data)
    except ValueError:
        raise Unavailable(f"{nobody} (it closed before it answered)") from None
    if not isinstance(answer, dict):
        raise Unavailable(f"{nobody} (the answer is not an object)")
    return answer


def _read_all(connection: socket.socket) -> bytes:
    data = bytearray()
    while chunk := connection.recv(READ_BYTES):
        data += chunk
        if len(data) > MAX_ANSWER_BYTES:
            raise OSError("the answer is too long")
    return bytes(data)


def _listen(setting: str, path: str) -> socket.socket:
    _take_over(setting, path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    mask = os.umask(0o177)  # the file must not be open to others for a moment even
    try:
        listener.bind(path)
        listener.listen(MAX_CALLERS)
    except OSError as e:
        listener.close()
        raise StartupError(f"{setting} {path}: {e.strerror}") from None
    finally:
        os.umask(mask)
    return listener


def _take_over(setting: str, path: str) -> None:
    """Removes a socket file on which nobody answers."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return  # nothing there; bind will tell what else is wrong
    if not stat.S_ISSOCK(mode):
        raise StartupError(f"{setting} {path}: a file that is not a socket is in the way")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as e:
            raise StartupError(f"{setting} {path}: {e.strerror}; is another zpush busy with it?") from None
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        raise StartupError(f"{setting} {path} is in use by a running zpush, pid {pid}")
