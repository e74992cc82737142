"""A client by hand: any bytes out, and what comes back until the server has had enough."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Self
from urllib.parse import quote, unquote

from tests.road.api import PATIENCE_S
from tests.road.server import Server
from tests.support import eventually

CHUNK_BYTES = 65536


class Raw:
    """Its read buffer is small, so that a client that does not read is not read for by asyncio's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, address: str, receive_bytes: int = 0) -> Self:
        host, _, port = address.removeprefix("http://").rpartition(":")
        sock = socket.socket()
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        return cls(*await asyncio.open_connection(sock=sock, limit=1024))

    @classmethod
    async def open(cls, server: Server, request: bytes, receive_bytes: int = 0) -> Self:
        """A client of the server whose request is answered with 101 or 200; what comes behind the head is not read.

        It can be found when this returns.
        """
        raw = await cls.connect(server.clients, receive_bytes)
        await raw.send(request)
        head = await raw.head()
        assert head.startswith((b"HTTP/1.1 101 ", b"HTTP/1.1 200 ")), head
        named = re.search(rb"[?&]client=([^& ]+)", request)
        assert named is not None
        await found(server, unquote(named[1].decode()))
        return raw

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S):
            self._writer.write(data)
            await self._writer.drain()

    async def head(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def take(self, size: int) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readexactly(size)

    async def frame(self) -> tuple[int, bytes]:
        """The server's next frame: opcode and payload."""
        first, size = await self.take(2)
        if size >= 126:
            size = int.from_bytes(await self.take(2 if size == 126 else 8), "big")
        return first & 15, await self.take(size)

    async def closed(self) -> tuple[int, bytes]:
        """The server's close frame, answered: code and reason. What comes before it is thrown away."""
        while True:
            opcode, payload = await self.frame()
            if opcode == 8:
                break
        await self.send(frame(8, payload[:2]))
        assert await self.rest() == b""
        return int.from_bytes(payload[:2], "big"), payload[2:]

    async def rest(self) -> bytes:
        """All until the server's end of it, however it is made."""
        found = []
        async with asyncio.timeout(PATIENCE_S):
            try:
                while data := await self.reader.read(CHUNK_BYTES):
                    found.append(data)
            except ConnectionResetError:
                pass  # it closed while we were still writing
        return b"".join(found)

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            pass  # it was reset meanwhile

    def reset(self) -> None:
        """RST instead of FIN."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._writer.transport.abort()


def frame(opcode: int, payload: bytes = b"", fin: bool = True) -> bytes:
    """A client's frame; its masking key is zero, which is as good as any other to a server."""
    size = len(payload)
    first = opcode | (0x80 if fin else 0)
    if size < 126:
        head = bytes([first, 0x80 | size])
    elif size < 65536:
        head = bytes([first, 0xFE]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, 0xFF]) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


async def found(server: Server, client_id: str) -> None:
    """Until its lease is written. Where the registry is slow a client is let in without one, and not found so long."""
    request = f"GET /v1/clients/{quote(client_id, safe='')} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"

    async def is_found() -> bool:
        raw = await Raw.connect(server.api)
        await raw.send(request.encode())
        answer = await raw.rest()
        await raw.close()
        return answer.startswith(b"HTTP/1.1 200 ")

    await eventually(is_found, f"the lease of {client_id} is written")
