"""One TCP or TLS stream to the server, whose reads have a deadline.

Rules. What is written here is small (requests, pongs, acks) and never waits; past WRITE_BYTES unsent it is the server
that does not read, and `roomy` says so. Reading stops by not calling read(): asyncio's reader stops the kernel's, which
stops the server's.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

from zpush.client.address import Address

READ_BYTES = 64 * 1024
WRITE_BYTES = 64 * 1024
CLOSE_S = 1.0  # for the last bytes to leave
ADDRESS_S = 3.0  # for one of a host's addresses, where there are more: IPv6 may lead nowhere and not say so


class Wire:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._timeout: asyncio.Timeout | None = None  # of the read under way
        self._since_s = 0.0
        self._left_s: float | None = None

    @classmethod
    async def open(cls, address: Address, ssl_context: ssl.SSLContext | None) -> Wire:
        """ssl_context: None for plain TCP. Raises OSError, of which ssl's errors are."""
        sock = await _connect(address.host, address.port)
        name = address.host if ssl_context is not None else None
        return cls(*await asyncio.open_connection(sock=sock, ssl=ssl_context, server_hostname=name, limit=READ_BYTES))

    @property
    def roomy(self) -> bool:
        return self._writer.transport.get_write_buffer_size() < WRITE_BYTES

    def write(self, data: bytes) -> None:
        if data and not self._writer.is_closing():
            self._writer.write(data)

    async def read(self, patience_s: float) -> bytes:
        """b"" at the end, however it came. TimeoutError after patience_s, or once what allow() gave is used up."""
        self._since_s = self._loop.time()
        try:
            async with asyncio.timeout(patience_s if self._left_s is None else self._left_s) as self._timeout:
                return await self._reader.read(READ_BYTES)
        except TimeoutError:
            raise
        except OSError:
            return b""
        finally:
            self._timeout = None
            if self._left_s is not None:
                self._left_s -= self._loop.time() - self._since_s

    def allow(self, total_s: float) -> None:
        """From now on all reads together may wait this long, the one under way included."""
        self._left_s = total_s
        self._since_s = self._loop.time()
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(self._since_s + total_s)

    async def close(self) -> None:
        """What was written still leaves, for a moment."""
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._writer.wait_closed()
        except OSError:  # it was cut, or (TimeoutError) nobody reads
            self._writer.transport.abort()


async def _connect(host: str, port: int) -> socket.socket:
    """To the first of the host's addresses that answers."""
    *others, last = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for each in others:
        try:
            async with asyncio.timeout(ADDRESS_S):
                return await _connect_to(each)
        except OSError:
            pass  # the next one may answer
    return await _connect_to(last)


async def _connect_to(address: tuple[Any, ...]) -> socket.socket:
    """address: as getaddrinfo has it."""
    family, kind, protocol, _, where = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except ConnectionRefusedError:
        sock.close()
        raise ConnectionRefusedError(f"nobody listens on port {where[1]} of {where[0]}") from None
    except BaseException:
        sock.close()
        raise
    return sock
