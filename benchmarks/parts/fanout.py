"""What a broadcast costs per message."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.figures import Figure, Progress, alternate, ratio_figure
from benchmarks.native import floor, load
from benchmarks.process import Cpu
from benchmarks.rounds import IN_FLIGHT, WEB_SOCKET, broadcasts, keep_apart
from benchmarks.server import serving

CONNECTIONS = 10_000
PAYLOAD_BYTES = 100
BURST = 20
PAIRS = 9
BURST_PAIRS = 5
TARGET = 1.2
BURST_TARGET = 0.15


def fanout(progress: Progress) -> Iterator[Figure]:
    """CPU time of the worker per message of a broadcast to 10,000 connections, and of twenty in one request"""
    with serving() as zpush, floor() as bare, load() as clients, load() as bare_clients:
        keep_apart(zpush, bare, clients, bare_clients)
        progress.say("opening")
        clients.ask("open", to=zpush.clients, path=WEB_SOCKET, count=CONNECTIONS, in_flight=IN_FLIGHT, saturate=1)
        bare_clients.ask("open", to=bare.address, count=CONNECTIONS, in_flight=IN_FLIGHT, saturate=1)

        def ours(times: int) -> Cpu:
            send = partial(zpush.push_to_all, "x" * PAYLOAD_BYTES, times)
            return broadcasts(clients, zpush.worker, CONNECTIONS, times, send)

        def floors(times: int) -> Cpu:
            send = partial(bare.ask, "broadcast", times=times, bytes=PAYLOAD_BYTES)
            return broadcasts(bare_clients, bare.pid, CONNECTIONS, times, send)

        once = alternate(partial(ours, 1), partial(floors, 1), PAIRS, progress)
        yield ratio_figure("one broadcast of 100 B", *once, TARGET)
        burst = alternate(partial(ours, BURST), partial(floors, BURST), BURST_PAIRS, progress)
        yield ratio_figure("twenty in one request", *burst, BURST_TARGET)
