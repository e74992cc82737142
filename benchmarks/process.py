"""What a process costs, read from /proc.

Rules. CPU time is the scheduler's own sum in nanoseconds (schedstat), which is exact once a process sleeps; the split
into user and system follows its tick counters, so it is a sample of 250 a second and means little below half a second.
Memory is private and dirty: what this process alone would give back. Nothing here lists /proc/PID/fd: that alone makes
the kernel spend 0.9 KB per socket.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

QUIET_WINDOW_S = 0.03
QUIET_CPU_S = 0.0009  # within the window: a server's heartbeat takes less
QUIET_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU time in seconds; waited_s: able to run, but another process had the core."""

    user_s: float = 0.0
    system_s: float = 0.0
    waited_s: float = 0.0

    @property
    def total_s(self) -> float:
        return self.user_s + self.system_s

    def __add__(self, other: Cpu) -> Cpu:
        return Cpu(self.user_s + other.user_s, self.system_s + other.system_s, self.waited_s + other.waited_s)

    def per(self, operations: int) -> Cpu:
        return Cpu(self.user_s / operations, self.system_s / operations, self.waited_s / operations)


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters of one process at one moment. sleeps: it neither runs nor waits for a core."""

    sleeps: bool
    run_s: float
    waited_s: float
    user_ticks: int
    system_ticks: int


def read(pid: int) -> Reading:
    run_ns = waited_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        run, waited, _ = (task / "schedstat").read_text().split()
        run_ns += int(run)
        waited_ns += int(waited)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Reading(fields[0] in "ST", run_ns / 1e9, waited_ns / 1e9, int(fields[11]), int(fields[12]))


class Meter:
    """CPU time of some processes from the moment it is made, by name."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        wait_until_quiet(pids.values())
        self._began = {name: read(pid) for name, pid in pids.items()}

    def spent(self) -> dict[str, Cpu]:
        """Until they sleep again."""
        wait_until_quiet(self._pids.values())
        return {name: _between(self._began[name], read(pid)) for name, pid in self._pids.items()}


def _between(began: Reading, now: Reading) -> Cpu:
    run_s = now.run_s - began.run_s
    user, system = now.user_ticks - began.user_ticks, now.system_ticks - began.system_ticks
    user_s = run_s * user / (user + system) if user + system else 0.0
    return Cpu(user_s, run_s - user_s, now.waited_s - began.waited_s)


def wait_until_quiet(pids: Iterable[int]) -> None:
    """Until they do no more than tick. One that only waits for a core is not quiet."""
    deadline = time.monotonic() + QUIET_TIMEOUT_S
    while time.monotonic() < deadline:
        before = [read(pid) for pid in pids]
        time.sleep(QUIET_WINDOW_S)
        after = [read(pid) for pid in pids]
        if all(b.sleeps and a.sleeps and a.run_s - b.run_s < QUIET_CPU_S for b, a in zip(before, after, strict=True)):
            return
    raise RuntimeError(f"processes are still busy after {QUIET_TIMEOUT_S:.0f} s")


def private_bytes(pid: int) -> int:
    """Private_Dirty of the whole process: heap, arrays, stacks."""
    return _rollup(pid, "Private_Dirty:")


def resident_bytes(pid: int) -> int:
    return _rollup(pid, "Rss:")


def _rollup(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {name} in /proc/{pid}/smaps_rollup")


def slab_bytes() -> int:
    """The kernel's objects, of the whole machine: sockets above all."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Slab:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no Slab in /proc/meminfo")


def pin(measured: int, others: Iterable[int]) -> None:
    """The measured process gets the last core for itself, the others the rest: fewer ways for a run to differ.

    Nothing happens on a machine of one core.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(measured, {cores[-1]})
        for pid in others:
            os.sched_setaffinity(pid, set(cores[:-1]))
