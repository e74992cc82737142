"""A real `zpush serve` on free ports, in a directory of its own, and what tests ask of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support import alive, end, halt, spawn, wait_until, whole_lines
from zpush.errors import Unavailable
from zpush.master import control

READY_S = 30.0  # three interpreters start at once, perhaps on a busy machine
FAST = (
    "server.bind=127.0.0.1:0",
    "api.bind=127.0.0.1:0",
    "peers.port=0",
    "server.workers=2",
    "connections.go_away_grace=0s",  # the end of a run waits for it
)
Status = dict[str, Any]
Serve = Callable[..., "Server"]


class Server:
    """overrides: as for --set. command: what is started, `zpush serve` unless told otherwise."""

    def __init__(self, *overrides: str, command: tuple[str, ...] = ("-m", "zpush", "serve")) -> None:
        # Not in tmp_path: a Unix socket's path is at most 107 bytes long, and pytest's can be longer.
        self.directory = Path(tempfile.mkdtemp(prefix="zpush-road-"))
        self.data_dir = self.directory / "data"
        self.log = self.directory / "log"
        self.output = self.directory / "output"
        self._overrides = (*FAST, f"server.data_dir={self.data_dir}", f"log.file={self.log}", *overrides)
        self._command = command
        self._children: list[subprocess.Popen[str]] = []
        self._pids: set[int] = set()
        self.process: subprocess.Popen[str]
        self.clients = self.api = ""

    def start(self, *overrides: str, **options: Any) -> Server:
        """Returns when it is ready. A second start is a new run in the same directory. options: as for spawn."""
        self._overrides += overrides
        self.process = self.spawn(*self._command, **options)
        addresses = self.until_ready()["addresses"]
        self.clients, self.api = addresses["clients"], f"http://{addresses['api']}"
        return self

    def spawn(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """A zpush command with the same settings; it ends with this server at the latest."""
        sets = [part for each in self._overrides for part in ("--set", each)]
        with open(self.output, "a") as output:
            child = spawn(sys.executable, *command, *sets, **{"stdout": output, "stderr": output, **options})
        self._children.append(child)
        return child

    @property
    def queue_url(self) -> str:
        return f"unix://{self.data_dir}/valkey.sock"

    def status(self) -> Status | None:
        """None while nobody answers."""
        status = self._asked()
        assert status is not None or self.process.poll() is None, f"the master has ended: {self.told()}"
        return status

    def _asked(self) -> Status | None:
        """None where nobody answers, for the moment or for good."""
        try:
            status = control.ask(str(self.data_dir / "control.sock"), "status")
        except Unavailable:
            return None
        crashes = self._crashes()
        assert not crashes, crashes[0]["exception"]
        found = [status, *status["workers"], *status["processors"], status["valkey"] or {}]
        self._pids.update(each["pid"] for each in found if each.get("pid"))
        return status

    def until(self, condition: Callable[[Status], Any], what: str, timeout_s: float = 30.0) -> Status:
        """The first status of which the condition holds."""

        def ask() -> Status | None:
            status = self.status()
            return status if status is not None and condition(status) else None

        try:
            found = wait_until(ask, what, timeout_s)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.told()}") from None
        assert found is not None
        return found

    def until_ready(self, restarts: int = 0) -> Status:
        """Every process serves, and so many have been replaced."""

        def ready(status: Status) -> bool:
            replaced = status["totals"]["restarts"] + (status["valkey"]["restarts"] if status["valkey"] else 0)
            well = not status["valkey"] or status["valkey"]["state"] == "ready"
            return status["state"] == "ready" and well and replaced >= restarts

        return self.until(ready, f"ready after {restarts} restarts", READY_S)

    def pid_of(self, kind: str, slot: int = 0) -> int:
        """kind: workers, processors or valkey."""
        status = self.status()
        assert status is not None
        found = status[kind] if kind == "valkey" else status[kind][slot]
        return int(found["pid"])

    def kill(self, kind: str, slot: int = 0) -> int:
        """kill -9, and the pid that is gone."""
        pid = self.pid_of(kind, slot)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid), f"{kind} {slot} is gone")
        return pid

    @contextlib.contextmanager
    def paused(self, kind: str, slot: int = 0) -> Iterator[None]:
        """Stopped meanwhile, as by a debugger."""
        pid = self.pid_of(kind, slot)
        halt(pid)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):  # its master took it for hung
                os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """All of its processes stopped meanwhile, as on a machine that hangs: nothing refuses, nothing answers."""
        self.status()
        self._send_all(signal.SIGSTOP)
        try:
            yield
        finally:
            self._send_all(signal.SIGCONT)

    def kill_all(self) -> None:
        """kill -9 of all of them, none of which hears of another's end."""
        self.status()
        self._send_all(signal.SIGSTOP)
        self._send_all(signal.SIGKILL)
        self.process.wait(10.0)

    def _send_all(self, number: int) -> None:
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        """The exit code, also of a master that a signal has ended meanwhile."""
        self._asked()  # so that we know whose end to expect
        return end(self.process, number, timeout_s)

    def all_gone(self) -> bool:
        return not any(alive(pid) for pid in self._pids)

    def lines(self) -> list[dict[str, Any]]:
        return whole_lines(self.log)

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["event"] == event]

    def shares(self) -> list[int]:
        """How many of the 24 streams each processor holds, the fewest first."""
        held = {line["pid"]: sum(line["held"].values()) for line in self.logged("streams held")}
        return sorted(held.values())

    def _crashes(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if "exception" in line]

    def told(self) -> str:
        """For a failed test: the output, and the log's last lines."""
        log = self.log.read_text().splitlines()[-40:] if self.log.exists() else []
        return "\n".join([self.output.read_text()[-4000:], *(line[-1000:] for line in log)])

    def close(self) -> None:
        """No child is left and nothing crashed on the way, whatever the test has killed."""
        try:
            for child in self._children:
                end(child)
            wait_until(self.all_gone, "every child ends with its master")
            crashes = self._crashes()
            assert not crashes, crashes
            assert "Traceback" not in self.output.read_text(), self.output.read_text()
        finally:
            shutil.rmtree(self.directory)
