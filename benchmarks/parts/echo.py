"""What a message from a client costs that comes back as it was."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.figures import Figure, Progress, alternate, ratio_figure
from benchmarks.native import floor, load
from benchmarks.rounds import WEB_SOCKET, echoes, keep_apart
from benchmarks.server import serving

CONNECTIONS = 1_000
MESSAGES = 30_000
MESSAGES_PER_S = 30_000
SIZE_BYTES = 100
PAIRS = 7
TARGET = 1.25


def echo(progress: Progress) -> Iterator[Figure]:
    """CPU time of the worker per message of 100 B, received and sent back"""
    with serving("connections.inbound=echo") as zpush, floor() as bare, load() as clients, load() as bare_clients:
        keep_apart(zpush, bare, clients, bare_clients)
        clients.ask("open", to=zpush.clients, path=WEB_SOCKET, count=CONNECTIONS)
        bare_clients.ask("open", to=bare.address, count=CONNECTIONS, saturate=1)
        rounds = alternate(
            lambda: echoes(clients, zpush.clients, zpush.worker, MESSAGES, MESSAGES_PER_S, SIZE_BYTES),
            lambda: echoes(bare_clients, bare.address, bare.pid, MESSAGES, MESSAGES_PER_S, SIZE_BYTES),
            PAIRS,
            progress,
        )
    yield ratio_figure("echo of 100 B", *rounds, TARGET)
