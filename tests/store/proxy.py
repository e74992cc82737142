"""A TCP proxy in front of a Unix socket: what a network does to a connection, on demand."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path


class Proxy:
    """writes: the chunks that the client sent, as they came. stalled: nothing passes, nothing is closed."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = str(socket_path)
        self._tasks: set[asyncio.Task[None]] = set()
        self._moving = asyncio.Event()
        self._moving.set()
        self.writes: list[bytes] = []
        self.rewrite: Callable[[bytes], bytes] = lambda reply: reply
        self.port = 0

    def stall(self) -> None:
        self._moving.clear()

    def resume(self) -> None:
        self._moving.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(self._socket_path)
        for source, target, seen in ((reader, up_writer, self._sent), (up_reader, writer, self._answered)):
            task = asyncio.create_task(self._pump(source, target, seen))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, seen: Callable[[bytes], bytes]
    ) -> None:
        try:
            while data := await source.read(1 << 20):
                await self._moving.wait()
                target.write(seen(data))
                await target.drain()
        except ConnectionError:
            return
        finally:
            target.close()

    def _sent(self, data: bytes) -> bytes:
        self.writes.append(data)
        return data

    def _answered(self, data: bytes) -> bytes:
        return self.rewrite(data)

    def end(self) -> None:
        for task in self._tasks:
            task.cancel()


@asynccontextmanager
async def proxied(socket_path: Path, tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    proxy = Proxy(socket_path)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.end()
