"""A process that neither works nor ends is found by its heartbeat, killed and replaced."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.road.devices import Connect, Spread
from tests.road.server import Server
from tests.support import halt
from zpush import Pusher


@pytest.fixture
def server() -> Iterator[Server]:
    it = Server(command=("-m", "tests.road.impatient"))
    try:
        yield it.start()
    finally:
        it.close()


async def test_a_worker_that_hangs(server: Server, spread: Spread, connect: Connect) -> None:
    stuck, other = await spread(server)
    hung = server.pid_of("workers", 0)
    halt(hung)
    assert await stuck.close_code() is None
    status = server.until_ready(restarts=1)
    assert [line["child"] for line in server.logged("worker 0 hangs, killed")] == [hung]
    assert status["workers"][1]["restarts"] == 0
    again = await connect(server, stuck.client_id)
    async with Pusher(server.queue_url) as pusher:
        for device in (again, other):
            await pusher.push(client=device.client_id, text="hello")
            assert await device.receive() == "hello"


async def test_a_processor_that_hangs(server: Server, connect: Connect, name: str) -> None:
    device = await connect(server, name)
    halt(server.pid_of("processors"))
    async with Pusher(server.queue_url) as pusher:
        await pusher.push(client=name, text="hello")
    assert await device.receive() == "hello"
    assert len(server.logged("processor 0 hangs, killed")) == 1
