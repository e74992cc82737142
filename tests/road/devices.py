"""Clients that are not ours: the libraries `websockets` and `httpx-sse`. Every wait has an end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlencode

import httpx
from httpx_sse import ServerSentEvent, aconnect_sse
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.road.api import PATIENCE_S, Api
from tests.road.raw import found
from tests.road.server import Server

Connect = Callable[..., Awaitable["Device"]]
Spread = Callable[..., Awaitable["list[Device]"]]


class Device:
    """A WebSocket connection."""

    def __init__(self, client_id: str, connection: ClientConnection) -> None:
        self.client_id = client_id
        self.connection = connection

    async def receive(self) -> str | bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.connection.recv()

    async def receive_json(self) -> Any:
        return json.loads(await self.receive())

    async def receive_all(self, count: int) -> list[str | bytes]:
        return [await self.receive() for _ in range(count)]

    async def receive_until(self, last: str) -> list[str | bytes]:
        found = [await self.receive()]
        while found[-1] != last:
            found.append(await self.receive())
        return found

    async def rest(self) -> list[str | bytes]:
        """What arrives until the server ends the connection."""
        found = []
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    found.append(await self.connection.recv())
        return found

    async def close_code(self) -> int | None:
        """How the server ends it; None without a close frame. What arrives before is thrown away."""
        await self.rest()
        async with asyncio.timeout(PATIENCE_S):
            await self.connection.wait_closed()
        return self.connection.close_code if self.connection.close_code != 1006 else None

    async def close(self) -> None:
        await self.connection.close()


async def open_device(
    server: Server,
    client_id: str = "",
    user: str = "",
    *,
    subprotocols: Sequence[str] = (),
    headers: dict[str, str] | None = None,
    known_as: str | None = None,
    **query: str,
) -> Device:
    """A device that can be found by its id.

    client_id, user: as auth.mode dev wants them. known_as: the id, where headers or query say it; "" where it cannot be
    found, as the registry is away. query: more of the URL's parameters.
    """
    named = {"client": client_id, "user": user, **query}
    parameters = urlencode({name: value for name, value in named.items() if value})
    connection = await connect(
        f"ws://{server.clients}/ws?{parameters}",
        subprotocols=[Subprotocol(each) for each in subprotocols] or None,
        additional_headers=headers,
        open_timeout=PATIENCE_S,
        close_timeout=PATIENCE_S,
        ping_interval=None,
        proxy=None,
    )
    if name := client_id if known_as is None else known_as:
        await found(server, name)
    return Device(client_id, connection)


async def open_spread(server: Server, name: str, user: str = "", **options: Any) -> list[Device]:
    """A device on each worker, in the order of the slots. options: open_device's."""
    there: dict[int, Device] = {}
    async with Api(server.api) as api:
        for number in range(64):  # the kernel spreads by a hash of addresses: all on one side is a chance of 2**-63
            device = await open_device(server, f"{name}-{number}", user, **options)
            worker = await api.worker_of(device.client_id)
            if worker in there:
                await device.close()
            there.setdefault(worker, device)
            if len(there) == 2:
                return [there[0], there[1]]
    raise AssertionError("all connections went to one worker")


class Stream:
    """An event stream. retry_ms: the reconnection time it began with."""

    def __init__(self, response: httpx.Response, events: AsyncIterator[ServerSentEvent]) -> None:
        self.response = response
        self.retry_ms: int | None = None
        self._events = events

    async def receive(self) -> ServerSentEvent:
        async with asyncio.timeout(PATIENCE_S):
            return await anext(self._events)

    async def rest(self) -> list[ServerSentEvent]:
        """What arrives until the server ends the stream."""
        async with asyncio.timeout(PATIENCE_S):
            return [event async for event in self._events]


@contextlib.asynccontextmanager
async def open_stream(server: Server, client_id: str, user: str = "", **headers: str) -> AsyncIterator[Stream]:
    parameters = {"client": client_id, **({"user": user} if user else {})}
    timeout = httpx.Timeout(PATIENCE_S, read=None)
    async with contextlib.AsyncExitStack() as stack:
        async with asyncio.timeout(PATIENCE_S):
            client = await stack.enter_async_context(
                httpx.AsyncClient(base_url=f"http://{server.clients}", trust_env=False, timeout=timeout)
            )
            source = await stack.enter_async_context(
                aconnect_sse(client, "GET", "/sse", params=parameters, headers=headers)
            )
            source.response.raise_for_status()
            stream = Stream(source.response, source.aiter_sse())
            stream.retry_ms = (await stream.receive()).retry  # an EventSource keeps it; this library calls it an event
            if client_id:
                await found(server, client_id)
        yield stream
