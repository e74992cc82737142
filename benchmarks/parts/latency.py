"""How old a message is when its client has it."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.figures import Figure, Progress, latency_figures
from benchmarks.native import load
from benchmarks.rounds import WEB_SOCKET
from benchmarks.server import serving

CLIENTS = 1_000
PER_S = 1_000
MESSAGES = 10_000
SENDERS = 64


def latency(progress: Progress) -> Iterator[Figure]:
    """From when a push was due to when its client read it, at 1,000 a second"""
    with serving() as zpush, load() as clients:
        clients.ask("open", to=zpush.clients, path=WEB_SOCKET, count=CLIENTS)
        for name, direct in (("direct", 1), ("queued", 0)):
            progress.say(name)
            for messages in (PER_S, MESSAGES):  # warm, then in earnest
                answer = clients.ask(
                    "push",
                    api=zpush.api,
                    requests=messages,
                    messages=messages,
                    clients=CLIENTS,
                    senders=SENDERS,
                    rate=PER_S,
                    direct=direct,
                )
            yield from latency_figures(name, answer)
