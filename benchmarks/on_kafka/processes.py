"""`zpush process` beside a server of the benchmark, with its CPU time and memory."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.native import ROOT, die_with_parent
from benchmarks.on_kafka.broker import Kafka
from benchmarks.server import Server, common_settings

STOP_TIMEOUT_S = 30.0


@contextmanager
def processing(it: Kafka, zpush: Server, *priorities: str) -> Iterator[int]:
    """The pid of the process that works: not of its master, which only watches. It works until the end of the block."""
    command = [
        sys.executable,
        "-m",
        "zpush",
        "process",
        "--priorities",
        ",".join(priorities or ("high", "normal", "low")),
    ]
    overrides = (
        *common_settings(zpush.data_dir),
        *it.settings,
        f"registry.url=unix://{zpush.data_dir}/valkey.sock",
        "auth.mode=dev",
    )
    for each in overrides:
        command += ["--set", each]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=die_with_parent, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        if "is ready" not in process.stdout.readline():
            raise RuntimeError("the processor did not start; its reason stands above")
        yield _processor(process.pid)
        if process.poll() is not None:
            raise RuntimeError("the processor has ended; its reason stands above")
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(STOP_TIMEOUT_S)
        process.stdout.close()


def _processor(master: int) -> int:
    """The one child of a master that is ready: before, it has others for what it checks at its start."""
    [child] = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    return int(child)
