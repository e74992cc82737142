"""What a direct push by client id costs, through the HTTP API."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.figures import Figure, Progress, cpu_figure
from benchmarks.native import Load, load
from benchmarks.process import Cpu, Meter
from benchmarks.rounds import WEB_SOCKET
from benchmarks.server import joined, serving

CLIENTS = 1_000
SENDERS = 64
PUSHES = 20_000
LINES = 100
ROUNDS = 5
OWN_TARGET_US, OTHER_TARGET_US, BATCH_TARGET_US = 30.0, 60.0, 12.0


def unicast(progress: Progress) -> Iterator[Figure]:
    """CPU time per push of 100 B, direct, 64 keep-alive senders, all of zpush's processes together"""
    with serving() as own, joined(own) as other, load() as clients:
        clients.ask("open", to=own.clients, path=WEB_SOCKET, count=CLIENTS)
        pids = {"worker": own.worker, "other worker": other.worker, "valkey": own.pids["valkey"]}
        for name, api, lines, target in (
            ("single, client on the same worker", own.api, 1, OWN_TARGET_US),
            ("single, client on another worker", other.api, 1, OTHER_TARGET_US),
            (f"NDJSON of {LINES}, same worker", own.api, LINES, BATCH_TARGET_US),
        ):
            push(clients, pids, api, lines)  # warm
            rounds = [push(clients, pids, api, lines) for _ in progress.rounds(ROUNDS)]
            sums = [sum(spent.values(), Cpu()) for spent, _ in rounds]
            yield cpu_figure(name, sums, target)
            for process in pids:
                yield cpu_figure(f"  of it {process}", [spent[process] for spent, _ in rounds])
            yield Figure("  pushes", sorted(rate for _, rate in rounds)[ROUNDS // 2], "/s")


def push(clients: Load, pids: dict[str, int], api: str, lines: int) -> tuple[dict[str, Cpu], float]:
    """CPU time per push by process, and pushes a second."""
    meter = Meter(pids)
    answer = clients.ask(
        "push",
        api=api,
        requests=PUSHES // lines,
        messages=PUSHES,
        clients=CLIENTS,
        senders=SENDERS if lines == 1 else 1,
        lines=lines,
    )
    return {name: cpu.per(PUSHES) for name, cpu in meter.spent().items()}, PUSHES / answer["elapsed_s"]
