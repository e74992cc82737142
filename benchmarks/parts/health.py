"""Whether much of one thing keeps another waiting: a herd that reconnects, a broadcast to all."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.figures import Figure, Progress, latency_figures
from benchmarks.native import Load, load
from benchmarks.process import Meter
from benchmarks.rounds import IN_FLIGHT, WEB_SOCKET
from benchmarks.server import Server, serving

HERD = 15_000
SETTLED = 500
COMERS = 500
PUSHES_PER_S = 500
SECONDS = 8
BROADCASTS = 8
PAYLOAD_BYTES = 100
TARGET_MS = 25.0


def health(progress: Progress) -> Iterator[Figure]:
    """Latency of direct pushes to settled clients, while 15,000 reconnect, and beside broadcasts to 15,000"""
    with serving() as zpush, load() as herd, load() as settled, load() as comers:
        progress.say("opening")
        herd.ask("open", to=zpush.clients, path=WEB_SOCKET, prefix="herd-", count=HERD, in_flight=IN_FLIGHT, saturate=1)
        settled.ask("open", to=zpush.clients, path=WEB_SOCKET, count=SETTLED)
        yield from latency_figures("push, nothing else", _pushes(settled, zpush))
        progress.say("reconnecting")
        yield from _beside_herd(zpush, herd, settled)
        progress.say("broadcasts")
        comers.ask("open", to=zpush.clients, path=WEB_SOCKET, prefix="comer-", count=COMERS)
        yield from _beside_broadcasts(zpush, herd, settled, comers)


def _beside_herd(zpush: Server, herd: Load, settled: Load) -> Iterator[Figure]:
    meter = Meter({"worker": zpush.worker})
    herd.begin("reopen", to=zpush.clients, path=WEB_SOCKET, prefix="herd-", saturate=1, **{"for": 1000 * SECONDS})
    answer = _pushes(settled, zpush)
    reopened = herd.end()
    busy = meter.spent()["worker"].total_s / reopened["elapsed_s"]
    yield from latency_figures("push, while 15,000 reconnect", answer, TARGET_MS)
    yield from latency_figures("their handshakes", reopened)
    yield Figure("their handshakes", reopened["opened"] / reopened["elapsed_s"], "/s")
    yield Figure("the worker's core meanwhile", 100 * busy, "%")


def _beside_broadcasts(zpush: Server, herd: Load, settled: Load, comers: Load) -> Iterator[Figure]:
    """Comers reconnect two at a time, all the time: what one waits for is the loop."""
    comers.begin(
        "reopen",
        to=zpush.clients,
        path=WEB_SOCKET,
        prefix="comer-",
        in_flight=2,
        saturate=1,
        **{"for": 1000 * SECONDS},
    )
    _begin_pushes(settled, zpush)
    text = "0" * 19 + "x" * (PAYLOAD_BYTES - 19)
    for _ in range(BROADCASTS):
        herd.begin("receive", messages=HERD, saturate=1)
        zpush.push_to_all(text)
        herd.end()
    yield from latency_figures("push, beside broadcasts to 15,000", settled.end(), TARGET_MS)
    yield from latency_figures("handshake, beside them", comers.end(), TARGET_MS)


def _pushes(settled: Load, zpush: Server) -> dict[str, float]:
    _begin_pushes(settled, zpush)
    return settled.end()


def _begin_pushes(settled: Load, zpush: Server) -> None:
    count = PUSHES_PER_S * SECONDS
    settled.begin("push", api=zpush.api, requests=count, clients=SETTLED, senders=64, rate=PUSHES_PER_S, messages=count)
