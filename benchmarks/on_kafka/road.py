"""The whole road: a backlog in Kafka, to connected clients."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator

from benchmarks.figures import Figure, Progress
from benchmarks.native import Load, floor, load
from benchmarks.on_kafka.broker import PAYLOAD_BYTES, Kafka, fill, kafka, read_all
from benchmarks.on_kafka.processes import processing
from benchmarks.process import read
from benchmarks.rounds import IN_FLIGHT, WEB_SOCKET
from benchmarks.server import Server, serving
from zpush.protocol.message import Priority

CLIENTS = 10_000
MESSAGES = 1_000_000
COUNTED = 900_000  # from the first one on
WITHIN_MS = 300_000
START_S = 60.0
TARGET = 1 / 0.6
LEAST_US = 0.05  # less than this no process takes that touches each message, or each batch


def road(progress: Progress) -> Iterator[Figure]:
    """1,000,000 messages of 200 B to 10,000 clients. floor: a bare consumer's loop beside a C send loop"""
    with kafka() as it, serving(*it.settings, "processor.instances=0") as zpush, load() as clients:
        progress.say("filling Kafka")
        fill(it, Priority.NORMAL, MESSAGES, "client-", CLIENTS)
        progress.say("bare")
        floor_s = _bare(it)
        progress.say("zpush")
        clients.ask("open", to=zpush.clients, path=WEB_SOCKET, count=CLIENTS, in_flight=IN_FLIGHT, saturate=1)
        yield from _ours(it, zpush, clients, floor_s)


def _ours(it: Kafka, zpush: Server, clients: Load, floor_s: float) -> Iterator[Figure]:
    with processing(it, zpush) as processor:
        pids = {**zpush.pids, "processor": processor, "Kafka": it.pid}
        clients.ask("receive", messages=1, saturate=1)
        began_s, began = time.perf_counter(), {name: read(pid).run_s for name, pid in pids.items()}
        clients.ask("receive", messages=COUNTED, within=WITHIN_MS, saturate=1)
        took_s, spent_s = time.perf_counter() - began_s, {name: read(pid).run_s for name, pid in pids.items()}
    for name in pids:
        cpu_us = (spent_s[name] - began[name]) / COUNTED * 1e6
        if cpu_us < LEAST_US:
            raise RuntimeError(f"{name} took {cpu_us:.2f} µs a message: that is not the process that works")
        yield Figure(f"queue to socket, {name}", cpu_us, "µs")
    yield Figure("queue to socket", COUNTED / took_s, "/s")
    ours_us, floor_us = took_s / COUNTED * 1e6, floor_s / MESSAGES * 1e6
    yield Figure(
        "time per message", ours_us, "µs", floor=floor_us, ratio=ours_us / floor_us, target=TARGET, of_ratio=True
    )


def _bare(it: Kafka) -> float:
    """Seconds from the reader's first record until both are done: each message read once, and as many sent."""
    with floor() as bare, load() as clients:
        clients.ask("open", to=bare.address, count=CLIENTS, in_flight=IN_FLIGHT, saturate=1)
        spawn = multiprocessing.get_context("spawn")
        began = spawn.Event()
        reader = spawn.Process(target=read_all, args=(it, Priority.NORMAL, MESSAGES, began.set))
        reader.start()
        if not began.wait(START_S):
            raise RuntimeError(f"the bare consumer has read nothing within {START_S:.0f} s")
        began_s = time.perf_counter()
        for _ in range(MESSAGES // CLIENTS):  # more at once would fill the clients' sockets
            clients.begin("receive", messages=CLIENTS, saturate=1)
            bare.ask("broadcast", times=1, bytes=PAYLOAD_BYTES)
            clients.end()
        reader.join()
        return time.perf_counter() - began_s
