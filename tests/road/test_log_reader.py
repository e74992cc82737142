"""Nobody reads standard output and error: a log shipper hangs, a terminal is stopped, or they are closed."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator

import pytest

from tests.road.api import Api
from tests.road.devices import Connect
from tests.road.server import Server
from tests.support import die_with_parent, eventually

QUIET = ("log.file=", "log.level=debug")


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """The writing end of a pipe that takes no byte more; somebody has the other end open."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for size in (4096, 1):
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writing, b"\n" * size)
    os.set_blocking(writing, True)
    yield writing
    os.close(reading)
    os.close(writing)


@pytest.fixture
def unread(full_pipe: int) -> Iterator[Server]:
    server = Server(*QUIET)
    try:
        yield server.start(stdout=full_pipe, stderr=full_pipe)
    finally:
        server.close()


async def test_it_serves_all_the_same(unread: Server, connect: Connect, name: str) -> None:
    unread.kill("workers", 1)
    unread.kill("valkey")  # of which all processes have something to say
    await asyncio.to_thread(unread.until_ready, 2)
    async with Api(unread.api) as api:

        async def is_ready() -> bool:
            return (await api.http.get("/readyz")).status_code == 200

        await eventually(is_ready, "the registry is found again")
        device = await connect(unread, name)
        assert await api.direct(name, "hello") == "delivered"
        assert await device.receive() == "hello"
    assert await asyncio.to_thread(unread.stop) == 0


async def test_closed_descriptors_are_not_given_to_sockets(connect: Connect, name: str) -> None:
    def close_all() -> None:
        die_with_parent()
        for fd in range(3):
            os.close(fd)

    server = Server(*QUIET)
    with contextlib.closing(server):
        await asyncio.to_thread(server.start, preexec_fn=close_all)
        pids = [server.process.pid, *(server.pid_of(kind) for kind in ("workers", "processors", "valkey"))]
        assert {os.readlink(f"/proc/{pid}/fd/{fd}") for pid in pids for fd in range(3)} == {os.devnull}
        device = await connect(server, name)
        async with Api(server.api) as api:
            assert await api.direct(name, "hello") == "delivered"
        assert await device.receive() == "hello"
        assert await asyncio.to_thread(server.stop) == 0
