"""What a queued message costs, by stage and process: Streams on the embedded Valkey, one processor, one worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

from benchmarks.figures import Figure, Progress, cpu_figure
from benchmarks.native import Load, load
from benchmarks.process import Cpu, Meter
from benchmarks.rounds import WEB_SOCKET
from benchmarks.server import Server, serving

CLIENTS = 1_000
MESSAGES = 30_000
LINES = 100
SENDERS = 4
ROUNDS = 3
PROCESSOR_TARGET_US = 15.0
Stage = tuple[dict[str, Cpu], float]


def queue(progress: Progress) -> Iterator[Figure]:
    """CPU time per message of 100 B by process, first into the queue, then from there to the socket"""
    with serving() as zpush, load() as clients:
        clients.ask("open", to=zpush.clients, path=WEB_SOCKET, count=CLIENTS)
        in_and_out(zpush, clients)  # warm
        rounds = [in_and_out(zpush, clients) for _ in progress.rounds(ROUNDS)]
        progress.say("both at once")
        elapsed_s = sorted(publish(zpush, clients, MESSAGES)["elapsed_s"] for _ in range(ROUNDS))[ROUNDS // 2]
    for number, stage in enumerate(("into the queue", "queue to socket")):
        for process in zpush.pids:
            target = PROCESSOR_TARGET_US if (number, process) == (1, "processor") else None
            yield cpu_figure(f"{stage}, {process}", [each[number][0][process] for each in rounds], target)
        rates = sorted(MESSAGES / each[number][1] for each in rounds)
        yield Figure(f"{stage}", rates[ROUNDS // 2], "/s")
    yield Figure("API to socket, both at once", MESSAGES / elapsed_s, "/s")


def in_and_out(zpush: Server, clients: Load) -> tuple[Stage, Stage]:
    """The processor is stopped meanwhile, for less time than its lease lasts."""
    meter = Meter(zpush.pids)
    os.kill(zpush.pids["processor"], signal.SIGSTOP)
    try:
        elapsed_s = publish(zpush, clients, 0)["elapsed_s"]
        into = meter.spent()
    finally:
        os.kill(zpush.pids["processor"], signal.SIGCONT)
    answer = clients.ask("receive", messages=MESSAGES)
    both = meter.spent()
    out = {name: Cpu(both[name].user_s - into[name].user_s, both[name].system_s - into[name].system_s) for name in both}
    return (_each(into), elapsed_s), (_each(out), answer["elapsed_s"])


def publish(zpush: Server, clients: Load, until_received: int) -> dict[str, float]:
    return clients.ask(
        "push",
        api=zpush.api,
        requests=MESSAGES // LINES,
        lines=LINES,
        senders=SENDERS,
        clients=CLIENTS,
        direct=0,
        messages=until_received,
    )


def _each(spent: dict[str, Cpu]) -> dict[str, Cpu]:
    return {name: cpu.per(MESSAGES) for name, cpu in spent.items()}
