"""A running master in a temporary directory, and what tests ask of it."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support import alive, end, run_zpush, spawn, wait_until, whole_lines
from zpush.errors import Unavailable
from zpush.master import control

QUICK = {
    "check_s": 0.05,
    "hung_s": 2.0,
    "start_s": 30.0,
    "backoff_s": 0.05,
    "slow_s": 0.4,
    "healthy_s": 5.0,
    "quick_s": 1.0,
    "drain_grace_s": 1.0,
}
ANY_PORTS = (
    "server.bind=127.0.0.1:0",
    "api.bind=127.0.0.1:0",
    "peers.port=0",
    "server.drain_window=1s",
    "connections.go_away_grace=0s",
)


class Run:
    """A short directory of its own: a Unix socket's path is at most 107 bytes long."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process: subprocess.Popen[str] | None = None
        self.log = directory / "log"
        self.pids: set[int] = set()

    def start(
        self, *overrides: str, processors_only: bool = False, config: Path | None = None, **timings: float
    ) -> None:
        """overrides: as for --set. Does not wait for anything."""
        options = {
            "config": str(config) if config else None,
            "set": [*ANY_PORTS, f"server.data_dir={self.directory}", f"log.file={self.log}", *overrides],
            "timings": {**QUICK, **timings},
            "processors_only": processors_only,
        }
        self.process = spawn(
            sys.executable,
            "-m",
            "tests.master.fake_run",
            json.dumps(options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def ready(self) -> dict[str, Any]:
        return self.until(lambda status: status["state"] == "ready", "every process is ready")

    def status(self) -> dict[str, Any] | None:
        """None while nobody answers."""
        try:
            status = control.ask(str(self.directory / "control.sock"), "status")
        except Unavailable:
            assert self.process is not None
            assert self.process.poll() is None, f"the master has ended: {self.process.communicate()} {self.lines()}"
            return None
        found = [*status["workers"], *status["processors"], status["valkey"] or {}]
        self.pids.update(each["pid"] for each in found if each.get("pid"))
        return status

    def until(self, condition: Any, what: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """The first status of which the condition holds."""

        def ask() -> dict[str, Any] | None:
            status = self.status()
            return status if status is not None and condition(status) else None

        found = wait_until(ask, what, timeout_s)
        assert found is not None
        return found

    def set_mode(self, mode: str) -> None:
        (self.directory / "mode").write_text(mode)

    def events(self) -> list[str]:
        path = self.directory / "events"
        return path.read_text().splitlines() if path.exists() else []

    def lines(self) -> list[dict[str, Any]]:
        return whole_lines(self.log)

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["event"] == event]

    def signal(self, number: int) -> None:
        """To the master."""
        assert self.process is not None
        self.process.send_signal(number)

    def reload(self) -> dict[str, Any]:
        return control.ask(str(self.directory / "control.sock"), "reload", 30.0)

    def command(self, *words: str) -> tuple[int, str, str]:
        """Exit code, standard output and error of a zpush command that means this run."""
        done = run_zpush(*words, "--set", f"server.data_dir={self.directory}")
        return done.returncode, done.stdout, done.stderr

    def end(self, number: int, timeout_s: float = 30.0) -> int:
        assert self.process is not None
        return end(self.process, number, timeout_s)

    def output(self) -> tuple[str, str]:
        """Standard output and error, at the end."""
        assert self.process is not None
        out, err = self.process.communicate(timeout=20)
        return out, err

    def all_gone(self) -> bool:
        return not any(alive(pid) for pid in self.pids)

    def close(self) -> None:
        if self.process is not None:
            end(self.process)
            for pipe in (self.process.stdout, self.process.stderr):
                assert pipe is not None
                pipe.close()
        wait_until(self.all_gone, "every child ends with its master")
        shutil.rmtree(self.directory)


@contextlib.contextmanager
def new_run() -> Iterator[Run]:
    run = Run(Path(tempfile.mkdtemp(prefix="zpush-run-")))
    try:
        yield run
    finally:
        run.close()


def connect(address: str, timeout_s: float = 20.0) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout_s)


def tell(address: str, command: str) -> None:
    with connect(address) as connection:
        connection.sendall(command.encode())
        connection.recv(1)  # its end: the command was taken


def who(address: str) -> dict[str, Any]:
    """The worker that answers."""
    with connect(address) as connection:
        connection.sendall(b"who")
        answer: dict[str, Any] = json.loads(connection.recv(4096))
        return answer
