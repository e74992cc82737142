"""What an opening handshake costs a worker, its lease included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.figures import Figure, Progress, alternate, cpu_figure, ratio_figure
from benchmarks.native import floor, load
from benchmarks.process import Cpu, Meter
from benchmarks.rounds import handshakes, keep_apart
from benchmarks.server import serving
from zpush.auth import jwt

COUNT = 5_000
PAIRS = 5
TARGET = 2.5
REGISTRY_US = 8.0
NOBODY = "redis://127.0.0.1:1"  # refuses at once
KEY = b"a benchmark's key of 32 bytes or more"


def handshake(progress: Progress) -> Iterator[Figure]:
    """CPU time of the worker per opening handshake, with registration"""
    yield from _dev(progress)
    yield from _registry(progress)
    yield from _jwt(progress)


def _dev(progress: Progress) -> Iterator[Figure]:
    valkey: list[Cpu] = []
    with serving() as zpush, floor() as bare, load() as clients:
        keep_apart(zpush, bare, clients)

        def ours() -> Cpu:
            meter = Meter({"valkey": zpush.pids["valkey"]})
            spent = handshakes(clients, zpush.clients, zpush.worker, COUNT)
            valkey.append(meter.spent()["valkey"].per(COUNT))
            return spent

        rounds = alternate(ours, lambda: handshakes(clients, bare.address, bare.pid, COUNT), PAIRS, progress)
    yield ratio_figure("handshake, dev", *rounds, TARGET)
    yield cpu_figure("the same in the registry's Valkey, lease removed again", valkey[1:])


def _registry(progress: Progress) -> Iterator[Figure]:
    """The same server without a registry: it lets clients in all the same, and writes nothing."""
    with serving() as zpush, serving(f"registry.url={NOBODY}", "auth.mode=dev") as without, load() as clients:
        rounds = alternate(
            lambda: handshakes(clients, zpush.clients, zpush.worker, COUNT),
            lambda: handshakes(clients, without.clients, without.worker, COUNT),
            PAIRS,
            progress,
        )
    more_us = [(a.total_s - b.total_s) * 1e6 for a, b in zip(*rounds, strict=True)]
    name = "what the registry adds, lease removed again"
    yield Figure(name, median(more_us), "µs", target=REGISTRY_US, rounds=more_us)


def _jwt(progress: Progress) -> Iterator[Figure]:
    firsts: list[Cpu] = []
    agains: list[Cpu] = []
    floors: list[Cpu] = []
    with TemporaryDirectory(prefix="zpush-bench-") as directory:
        keys, tokens = Path(directory) / "keys", Path(directory) / "tokens"
        keys.write_bytes(KEY + b"\n")
        keys.chmod(0o600)
        with serving("auth.mode=jwt", f"auth.keys_file={keys}") as zpush, floor() as bare, load() as clients:
            keep_apart(zpush, bare, clients)
            for number in progress.rounds(PAIRS + 1):
                write_tokens(tokens, number)
                for found in (firsts, agains):
                    found.append(handshakes(clients, zpush.clients, zpush.worker, COUNT, path="/ws", tokens=tokens))
                floors.append(handshakes(clients, bare.address, bare.pid, COUNT, path="/ws", tokens=tokens))
    yield ratio_figure("handshake, token seen before", agains[1:], floors[1:], TARGET)
    yield ratio_figure("handshake, token seen first", firsts[1:], floors[1:])
    seen_first = [
        Cpu(max(0.0, a.user_s - b.user_s), max(0.0, a.system_s - b.system_s))
        for a, b in zip(firsts[1:], agains[1:], strict=True)
    ]
    yield cpu_figure("the difference: verifying a token", seen_first)


def write_tokens(path: Path, number: int) -> None:
    """One a line, other ones for each number."""
    ids = (f"client-{i:013d}" for i in range(COUNT))
    path.write_text("".join(jwt.sign(KEY, each, ttl_s=3600 + number) + "\n" for each in ids))
