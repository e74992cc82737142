"""Two workers each, so that half of all deliveries cross processes.

`server` is shared by all tests, which tell their clients apart by `name`; a module with SETTINGS has one of its own.
Whoever kills or stops things, or counts, starts servers with `serve`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.road.api import Api
from tests.road.devices import Connect, Device, Spread, open_device, open_spread
from tests.road.server import Serve, Server

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def shared_server() -> Iterator[Server]:
    yield from _run(Server())


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    settings = getattr(request.module, "SETTINGS", None)
    if settings is None:
        yield request.getfixturevalue("shared_server")
    else:
        yield from _run(Server(*settings))


def _run(server: Server) -> Iterator[Server]:
    try:
        yield server.start()
        assert server.stop() == 0
    finally:
        server.close()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(*overrides): one more server, ready."""
    with contextlib.ExitStack() as stack:

        def start(*overrides: str) -> Server:
            it = Server(*overrides)
            stack.callback(it.close)
            return it.start()

        yield start


@pytest.fixture
async def api(server: Server) -> AsyncIterator[Api]:
    async with Api(server.api) as it:
        yield it


@pytest.fixture
def name() -> str:
    """An id that no other test uses."""
    return f"c{next(_numbers)}"


@pytest.fixture
async def stack() -> AsyncIterator[contextlib.AsyncExitStack]:
    """Closes what a test opens."""
    async with contextlib.AsyncExitStack() as it:
        yield it


@pytest.fixture
async def connect(stack: contextlib.AsyncExitStack) -> Connect:
    """connect(server, client_id, …): an open device, closed after the test."""

    async def open_one(server: Server, *args: str, **options: object) -> Device:
        device = await open_device(server, *args, **options)  # type: ignore[arg-type]
        stack.push_async_callback(device.close)
        return device

    return open_one


@pytest.fixture
async def spread(stack: contextlib.AsyncExitStack, name: str) -> Spread:
    """spread(server, user, …): a device on each worker, in the order of the slots."""

    async def open_both(server: Server, user: str = "", **options: Any) -> list[Device]:
        devices = await open_spread(server, name, user, **options)
        for device in devices:
            stack.push_async_callback(device.close)
        return devices

    return open_both
