"""What a backlog of low messages does to high ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.figures import Figure, Progress
from benchmarks.native import Load, load
from benchmarks.on_kafka.broker import fill, kafka
from benchmarks.on_kafka.processes import processing
from benchmarks.rounds import WEB_SOCKET
from benchmarks.server import Server, serving
from zpush.protocol.message import Priority

CLIENTS = 1_000
BACKLOG = 2_500_000  # of which over 1,000,000 are left at the end
PER_S = 500
MESSAGES = 5_000
DEDICATED_TARGET = 1.5
SHARED_TARGET = 3.0


def priority(progress: Progress) -> Iterator[Figure]:
    """High messages at 500/s: p99 beside a backlog of over 1,000,000 low ones to other clients; floor: without it"""
    cases = (
        ("a processor for high alone", (("high",), ("normal", "low")), DEDICATED_TARGET),
        ("one for all", (("high", "normal", "low"),), SHARED_TARGET),
    )
    for name, processors, target in cases:
        with kafka() as it, serving(*it.settings, "processor.instances=0") as zpush, load() as clients:
            clients.ask("open", to=zpush.clients, path=WEB_SOCKET, count=CLIENTS)
            with ExitStack() as stack:
                for priorities in processors:
                    stack.enter_context(processing(it, zpush, *priorities))
                progress.say(f"{name}: without a backlog")
                alone_ms = _p99_ms(clients, zpush)
            progress.say(f"{name}: filling Kafka")
            fill(it, Priority.LOW, BACKLOG, "nobody-", 10_000)
            with ExitStack() as stack:
                for priorities in processors:
                    stack.enter_context(processing(it, zpush, *priorities))
                progress.say(f"{name}: beside a backlog")
                beside_ms, low = _beside(clients, zpush)
        yield Figure(name, beside_ms, "ms", floor=alone_ms, ratio=beside_ms / alone_ms, target=target, of_ratio=True)
        yield Figure(f"{name}, low meanwhile", low, "/s")


def _p99_ms(clients: Load, zpush: Server) -> float:
    push = {"api": zpush.api, "clients": CLIENTS, "senders": 64, "rate": PER_S, "direct": 0, "priority": "high"}
    for messages in (2 * PER_S, MESSAGES):  # warm, then in earnest
        answer = clients.ask("push", **push, requests=messages, messages=messages)
    return answer["p99_us"] / 1000


def _beside(clients: Load, zpush: Server) -> tuple[float, float]:
    """p99 in ms, and low messages a second meanwhile. RuntimeError where the backlog did not last."""
    before = zpush.metric('zpush_queue_lag_messages{priority="low"}')
    p99_ms = _p99_ms(clients, zpush)
    left = zpush.metric('zpush_queue_lag_messages{priority="low"}')
    if left == 0:
        raise RuntimeError("the backlog was gone before the measurement ended")
    return p99_ms, (before - left) / ((2 * PER_S + MESSAGES) / PER_S)
