"""The load client counts what comes, and gives no figure where it would be its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.native import Floor, Load, floor, load
from benchmarks.server import serving

TRIES = 5


@pytest.fixture
def bare(native: None) -> Iterator[Floor]:
    with floor() as running:
        yield running


@pytest.fixture
def clients(native: None) -> Iterator[Load]:
    with load() as running:
        yield running


@pytest.mark.parametrize("path", ["/ws", "/ws?client=", "/sse"])
def test_opens_and_closes(bare: Floor, clients: Load, path: str) -> None:
    for _ in range(2):
        answer = clients.ask("open", to=bare.address, path=path, count=300, saturate=1)
        assert answer["opened"] == answer["samples"] == 300
        assert 0 < answer["p50_us"] <= answer["p99_us"] <= answer["max_us"]
        clients.ask("close")


@pytest.mark.parametrize("size", [100, 1000])
def test_counts_messages_and_bytes(bare: Floor, clients: Load, size: int) -> None:
    clients.ask("open", to=bare.address, count=50, saturate=1)
    clients.begin("receive", messages=500, saturate=1)
    bare.ask("broadcast", times=10, bytes=size)
    answer = clients.end()
    assert answer["messages"] == 500
    assert answer["bytes"] == 500 * (size + (2 if size < 126 else 4))


def test_keeps_a_rate(bare: Floor, clients: Load) -> None:
    clients.ask("open", to=bare.address, count=50, saturate=1)
    answer = clients.ask("echo", to=bare.address, messages=500, rate=1000, saturate=1)
    assert answer["messages"] == answer["samples"] == 500
    assert answer["elapsed_s"] > 0.45


def test_reopens(bare: Floor, clients: Load) -> None:
    clients.ask("open", to=bare.address, count=20, saturate=1)
    answer = clients.ask("reopen", to=bare.address, in_flight=4, saturate=1, **{"for": 200})
    assert answer["opened"] > 20
    assert answer["elapsed_s"] >= 0.2


def test_gives_no_figure_that_is_its_own(bare: Floor, clients: Load) -> None:
    """What has come already can be read without ever waiting: the client is all that is measured.

    More than one try, for the time that a virtual machine's host takes is nobody's.
    """
    clients.ask("open", to=bare.address, count=1000, saturate=1)
    for _ in range(TRIES):
        bare.ask("broadcast", times=300, bytes=100)
        try:
            clients.ask("receive", messages=300_000)
        except RuntimeError as e:
            assert "was the bottleneck" in str(e)
            return
    pytest.fail("it took the figure for the server's")


def test_lost_connections_are_no_result(bare: Floor, clients: Load) -> None:
    clients.ask("open", to=bare.address, count=3, saturate=1)
    bare.kill()
    clients.begin("receive", messages=1, within=300)
    with pytest.raises(RuntimeError, match="has ended"):
        clients.end()


def test_pushes_through_the_api(clients: Load) -> None:
    with serving() as zpush:
        clients.ask("open", to=zpush.clients, path="/ws?client=", count=20, saturate=1)
        plan = {"api": zpush.api, "clients": 20, "saturate": 1}
        single = clients.ask("push", requests=40, messages=40, senders=4, **plan)
        assert (single["requests"], single["delivered"], single["messages"]) == (40, 40, 40)
        batch = clients.ask("push", requests=2, lines=30, messages=60, direct=0, senders=1, **plan)
        assert (batch["requests"], batch["queued"], batch["messages"]) == (2, 60, 60)
        paced = clients.ask("push", requests=50, messages=50, rate=200, **plan)
        assert paced["samples"] == 50 and 0 < paced["p50_us"] < 10_000_000
