"""Memory of connections that do nothing, and of those that could not take what they were sent."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.figures import Figure, Progress
from benchmarks.native import Load, floor, load
from benchmarks.process import resident_bytes, slab_bytes, wait_until_quiet
from benchmarks.rounds import IN_FLIGHT, WARM_UP, WEB_SOCKET, memory_of
from benchmarks.server import Server, serving

CONNECTIONS = 15_000
SLOW_CONNECTIONS = 5_000
SLOW_UNSENT_BYTES = 64 * 1024
SLOW_RECEIVE_BUFFER_BYTES = 4096
SLOW_PUSH_BYTES = 32 * 1024
SLOW_PUSHES = 12
SWEEP_S = 1.6  # once a second a worker writes its gauges and gives memory back
TARGET_BYTES = 300.0
TARGET_GIVEN_BACK = 1.10


def idle(progress: Progress) -> Iterator[Figure]:
    """User memory per idle, authenticated, registered connection; and what is left after 64 KiB unsent each"""
    progress.say("floor")
    with floor() as server, load() as clients:
        floor_bytes = memory_of(clients, server.address, server.pid, WEB_SOCKET, CONNECTIONS)
    for transport in ("ws", "sse"):
        progress.say(transport)
        yield from _memory(transport, floor_bytes)
    progress.say("unsent bytes")
    with serving("connections.unsent_budget_bytes=1GiB", "connections.unsent_age=1h") as zpush:
        yield from give_back(zpush)


def _memory(transport: str, floor_bytes: float) -> Iterator[Figure]:
    with serving() as zpush, load() as clients:
        kernel = slab_bytes()
        held = memory_of(clients, zpush.clients, zpush.worker, f"/{transport}?client=", CONNECTIONS)
        kernel = slab_bytes() - kernel
        time.sleep(SWEEP_S)
        engine = zpush.metric("zpush_engine_memory_bytes")
    name = f"{transport}: private memory per connection"
    everybody = CONNECTIONS + WARM_UP
    yield Figure(name, held, "B", floor=floor_bytes, ratio=held / floor_bytes, target=TARGET_BYTES)
    yield Figure("  the engine's own, room for 18,000 included", engine / everybody, "B")
    yield Figure("  the kernel's, on each end", kernel / everybody / 2, "B")


def give_back(zpush: Server) -> Iterator[Figure]:
    with load() as clients:
        open_slow(clients, zpush)
        close(clients, zpush)
        before = resident_bytes(zpush.worker)
        open_slow(clients, zpush)
        for _ in range(SLOW_PUSHES):
            if unsent_bytes(zpush) >= SLOW_CONNECTIONS * SLOW_UNSENT_BYTES:
                break
            zpush.push([{"to": {"all": True}, "text": "x" * SLOW_PUSH_BYTES}])  # queued: a direct push would wait
        unsent = unsent_bytes(zpush) / SLOW_CONNECTIONS
        filled = resident_bytes(zpush.worker)
        close(clients, zpush)
        after = resident_bytes(zpush.worker)
    yield Figure("unsent bytes per slow consumer", unsent, "B")
    yield Figure("resident memory with them", filled / 2**20, "MiB")
    yield Figure(
        "resident memory when they are gone",
        after / 2**20,
        "MiB",
        floor=before / 2**20,
        ratio=after / before,
        target=TARGET_GIVEN_BACK,
        of_ratio=True,
    )


def unsent_bytes(zpush: Server) -> float:
    wait_until_quiet(zpush.pids.values())
    time.sleep(SWEEP_S)
    return zpush.metric("zpush_unsent_bytes")


def open_slow(clients: Load, zpush: Server) -> None:
    clients.ask(
        "open",
        to=zpush.clients,
        path=WEB_SOCKET,
        count=SLOW_CONNECTIONS,
        in_flight=IN_FLIGHT,
        saturate=1,
        receive_buffer=SLOW_RECEIVE_BUFFER_BYTES,
    )


def close(clients: Load, zpush: Server) -> None:
    clients.ask("close")
    wait_until_quiet(zpush.pids.values())
    time.sleep(SWEEP_S)
