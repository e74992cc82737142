"""The peers' wire by hand: owners and callers of the test's own making, honest up to the hello and free after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.delivery.world import SECRET, Box
from zpush.delivery.peer_frames import LENGTH_BYTES
from zpush.delivery.peer_hello import CallerHello, OwnerHello
from zpush.protocol.message import Priority
from zpush.registry.base import Node, NodeState

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
    return await reader.readexactly(size)


async def ended(reader: asyncio.StreamReader, timeout_s: float = 30.0) -> bool:
    """The other side ended the connection, whatever it sent before."""
    async with asyncio.timeout(timeout_s):
        try:
            while await reader.read(65536):
                pass
        except ConnectionResetError:
            pass
    return True


@asynccontextmanager
async def owner(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[Node]:
    """An owner of the test's own making."""
    tasks = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the caller ended it, which the test sees on its side
        except asyncio.CancelledError:
            pass  # the test is over; asyncio's streams would log the cancelled task
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Node("owner", f"127.0.0.1:{port}", "local", NodeState.UP)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: bytes = SECRET) -> OwnerHello:
    """The owner's side of the hello."""
    hello = OwnerHello(secret, "owner")
    writer.write(hello.greeted(await read_frame(reader))[0])
    writer.write(hello.proved(await read_frame(reader)))
    return hello


async def greet(box: Box, name: str = "raw", priority: Priority = Priority.NORMAL) -> Streams:
    """The caller's side of the hello."""
    hello = CallerHello(SECRET, name, box.node.id, priority)
    reader, writer = await asyncio.open_connection("127.0.0.1", box.port)
    writer.write(hello.first)
    writer.write(hello.challenged(await read_frame(reader)))
    hello.welcomed(await read_frame(reader))
    return reader, writer
