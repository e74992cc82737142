"""The gate's figures: functions, a whole worker and a whole processor under callgrind; memory; ratios, if asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from statistics import median
from subprocess import run
from tempfile import TemporaryDirectory

from benchmarks.check import callgrind
from benchmarks.check.counted import ROUNDS
from benchmarks.check.gate import Kind, Measured
from benchmarks.check.scripts import SCRIPTS
from benchmarks.native import ROOT, Load, Told, environ, floor, load, running
from benchmarks.process import Cpu, wait_until_quiet
from benchmarks.rounds import WEB_SOCKET, echoes, handshakes, keep_apart, memory_of
from benchmarks.server import Server, common_settings, serving

DETERMINED = {"PYTHONHASHSEED": "0"}
OPERATIONS = 200
MESSAGES = 1000  # more, for how they arrive decides how they are batched
LINES = 100
SENDERS = 16
CONNECTIONS = 5_000
PAIRS = 5


def functions(names: Sequence[str]) -> Iterator[Measured]:
    """Instructions an operation, of scripts.py's scripts."""
    with TemporaryDirectory(prefix="zpush-check-") as directory:
        command = callgrind.command("benchmarks.check.counted", Path(directory), *names)
        run(command, check=True, cwd=ROOT, env=environ(DETERMINED))
        found = callgrind.read(Path(directory))
        for name in names:
            yield Measured(name, found[name] / ROUNDS / SCRIPTS[name]().operations, Kind.FUNCTION)


def worker() -> Iterator[Measured]:
    """Instructions of a whole worker per handshake, end and push, its loop and its registry calls included."""
    with TemporaryDirectory(prefix="zpush-check-") as directory, serving("processor.instances=0") as cluster:
        with _counted("worker", cluster, directory) as counted, load() as clients:
            where = counted.answer()
            _count_all(counted, clients, where["client"], where["api"])
        for name, instructions in callgrind.read(Path(directory)).items():
            yield Measured(name, instructions / OPERATIONS, Kind.WORKER)


def processor() -> Iterator[Measured]:
    """Instructions of a whole processor per message, from the queue to a peer and back to the queue."""
    with TemporaryDirectory(prefix="zpush-check-") as directory, serving("processor.instances=0") as cluster:
        with _counted("processor", cluster, directory) as counted, load() as clients:
            counted.answer()
            clients.ask("open", to=cluster.clients, path=WEB_SOCKET, count=MESSAGES, in_flight=64, saturate=1)

            def push() -> None:
                clients.ask(
                    "push",
                    api=cluster.api,
                    requests=MESSAGES // LINES,
                    lines=LINES,
                    clients=MESSAGES,
                    senders=1,
                    direct=0,
                    messages=MESSAGES,
                    saturate=1,
                )

            push()  # once before it counts
            _count(counted, "processor_message", push)
        for name, instructions in callgrind.read(Path(directory)).items():
            yield Measured(name, instructions / MESSAGES, Kind.WORKER)


def _counted(what: str, cluster: Server, directory: str) -> AbstractContextManager[Told]:
    """A worker or processor under callgrind, of this cluster."""
    valkey = f"unix://{cluster.data_dir}/valkey.sock"
    settings = [*common_settings(directory), f"registry.url={valkey}", f"queue.url={valkey}", "auth.mode=dev"]
    return running(Told(*callgrind.command(f"benchmarks.check.{what}", Path(directory), *settings), env=DETERMINED))


def _count_all(counted: Told, clients: Load, client_address: str, api: str) -> None:
    def open_clients() -> None:
        clients.ask("open", to=client_address, path=WEB_SOCKET, count=OPERATIONS, in_flight=64, saturate=1)

    def close_clients() -> None:
        clients.ask("close")

    def push(lines: int, direct: int) -> None:
        clients.ask(
            "push",
            api=api,
            requests=OPERATIONS // lines,
            lines=lines,
            clients=OPERATIONS,
            senders=SENDERS if lines == 1 else 1,
            direct=direct,
            messages=OPERATIONS if direct else 0,
            saturate=1,
        )

    open_clients()
    close_clients()
    _count(counted, "worker_handshake", open_clients)
    _count(counted, "worker_close", close_clients)
    open_clients()
    for name, lines, direct in (
        ("worker_push", 1, 1),
        ("worker_push_batch", LINES, 1),
        ("worker_publish", 1, 0),
        ("worker_publish_batch", LINES, 0),
    ):
        push(lines, direct)  # once before it counts
        _count(counted, name, partial(push, lines, direct))


def _count(counted: Told, name: str, work: Callable[[], None]) -> None:
    wait_until_quiet([counted.pid])
    counted.ask("start")
    work()
    wait_until_quiet([counted.pid])
    counted.ask(f"dump {name}")


def memory() -> Iterator[Measured]:
    """Private memory of a worker per idle connection."""
    with serving() as zpush, load() as clients:
        held = memory_of(clients, zpush.clients, zpush.worker, WEB_SOCKET, CONNECTIONS)
    yield Measured("memory_per_connection", held, Kind.MEMORY)


def ratios() -> Iterator[Measured]:
    """CPU time of handshakes and echoes against the floor's, medians of pairs."""
    with serving("connections.inbound=echo") as zpush, floor() as bare, load() as clients, load() as bare_clients:
        keep_apart(zpush, bare, clients, bare_clients)
        yield _ratio(
            "ratio_handshake",
            lambda: handshakes(clients, zpush.clients, zpush.worker, 3_000),
            lambda: handshakes(bare_clients, bare.address, bare.pid, 3_000),
        )
        for each, address in ((clients, zpush.clients), (bare_clients, bare.address)):
            each.ask("open", to=address, path=WEB_SOCKET, count=1_000, saturate=1)
        yield _ratio(
            "ratio_echo",
            lambda: echoes(clients, zpush.clients, zpush.worker, 10_000, 20_000, 100),
            lambda: echoes(bare_clients, bare.address, bare.pid, 10_000, 20_000, 100),
        )


def _ratio(name: str, ours: Callable[[], Cpu], bare: Callable[[], Cpu]) -> Measured:
    ours(), bare()
    return Measured(name, median(ours().total_s / bare().total_s for _ in range(PAIRS)), Kind.RATIO)
