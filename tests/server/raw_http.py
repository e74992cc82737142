"""A raw HTTP client for tests that say every byte themselves, and a server for it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from zpush.server.http import HttpServer, Site
from zpush.server.http_message import HttpRequest, HttpResponse, Route
from zpush.server.http_parser import HttpLimits

CLOSE = b"Host: t\r\nConnection: close\r\n"
PATIENCE_S = 10.0


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class RawClient:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, *, head_only: bool = False) -> Answer:
        """The next answer, by its Content-Length."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            line, *fields = head.decode("latin-1").split("\r\n")[:-2]
            headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
            length = 0 if head_only else int(headers.get("content-length", 0))
            return Answer(int(line.split()[1]), headers, await self.reader.readexactly(length))

    async def ended(self) -> bytes:
        """What still comes until the server closes its half. Fails where the connection is reset."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Vanishes: RST, not FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Uncounted:
    """A site that is a function."""

    cells = None

    def __init__(self, route: Callable[[HttpRequest], Route | HttpResponse]) -> None:
        self._route = route

    def __call__(self, request: HttpRequest) -> Route | HttpResponse:
        return self._route(request)


@contextlib.asynccontextmanager
async def serving(
    site: Site | Callable[[HttpRequest], Route | HttpResponse],
    limits: HttpLimits | None = None,
    max_body_bytes: int = 1 << 20,
) -> AsyncIterator[tuple[HttpServer, int]]:
    """The server and its port. Checks at the end that nothing was left behind."""
    server = HttpServer(site if hasattr(site, "cells") else Uncounted(site), max_body_bytes, limits)
    listener = await asyncio.get_running_loop().create_server(server.protocol_factory, "127.0.0.1", 0)
    try:
        yield server, listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await server.stop(1.0)
    assert server.budget.held_bytes == 0, "a body was not given back to the budget"
    assert not server.answers


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[RawClient]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
