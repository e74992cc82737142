"""Servers that are not ours: the websockets library's, and an event-stream server of a few lines.

Each plays a script: what it does with the first connection, the second, and so on. `opened` counts requests that came,
`seen` keeps their heads.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from tests.support import eventually
from zpush.client import Client, State

RawScript = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]]
WebSocketScript = Callable[[ServerConnection], Awaitable[None]]
StreamScript = Callable[["Stream"], Awaitable[None]]


@dataclass(frozen=True)
class Refuse:
    """Instead of a script: an HTTP answer."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: str = '{"error":{"code":"x","message":"not you"}}'


@dataclass(frozen=True)
class Raw:
    """Instead of a script, for stream_server: bytes in, bytes out, and the 101 that the request deserves."""

    play: RawScript


@dataclass
class Server:
    """held(): open connections (WebSocket only)."""

    url: str = ""
    held: Callable[[], int] = lambda: 0
    opened: int = 0
    seen: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def note(self, path: str, headers: dict[str, str]) -> int:
        """The number of this connection, from 0."""
        self.opened += 1
        self.paths.append(path)
        self.seen.append({name.lower(): value for name, value in headers.items()})
        return self.opened - 1

    async def has_seen(self, connections: int) -> None:
        await eventually(lambda: self.opened >= connections, f"{connections} connections")


@asynccontextmanager
async def websocket_server(
    *scripts: WebSocketScript | Refuse, ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    """The last script is played again and again."""
    server = Server()
    numbers: dict[ServerConnection, int] = {}

    def process(connection: ServerConnection, request: Request) -> Response | None:
        number = numbers[connection] = server.note(request.path, dict(request.headers.raw_items()))
        step = scripts[min(number, len(scripts) - 1)]
        if not isinstance(step, Refuse):
            return None
        response = connection.respond(HTTPStatus(step.status), step.body)
        for name, value in step.headers.items():
            response.headers[name] = value
        return response

    async def handle(connection: ServerConnection) -> None:
        step = scripts[min(numbers[connection], len(scripts) - 1)]
        assert not isinstance(step, Refuse)
        await step(connection)

    names = [Subprotocol("zpush.v1"), Subprotocol("zpush.raw")]
    async with serve(
        handle, "127.0.0.1", 0, process_request=process, subprotocols=names, compression=None, ssl=ssl_context
    ) as ws:
        host, port = ws.sockets[0].getsockname()[:2]
        server.url = f"ws://{host}:{port}"
        server.held = lambda: len(ws.connections)
        yield server


def push(id: str, data: Any) -> str:
    return json.dumps({"id": id, "data": data})


def go_away(delay_ms: int = 0, reason: str = "max_age") -> str:
    return json.dumps({"go_away": {"reason": reason, "reconnect_in_ms": delay_ms}})


async def stay(connection: ServerConnection) -> None:
    """Until the client closes."""
    await connection.wait_closed()


def says(*messages: str | bytes, code: int | None = None) -> WebSocketScript:
    """A script: sends these, then closes with the code, or waits for the client to."""

    async def script(connection: ServerConnection) -> None:
        for message in messages:
            await connection.send(message)
        if code is None:
            await connection.wait_closed()
        else:
            await connection.close(code, "as the script has it")

    return script


@dataclass
class Stream:
    """One event stream, from the server's side."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    chunked: bool = False

    async def send(self, text: str) -> None:
        data = text.encode()
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)
        await self.writer.drain()

    async def event(self, name: str, data: str, id: str = "") -> None:
        await self.send((f"id: {id}\n" if id else "") + f"event: {name}\ndata: {data}\n\n")

    async def close(self, code: int) -> None:
        await self.event("close", str(code), f"zpush:close:{code}")

    async def gone(self) -> None:
        """Until the client closes."""
        await self.reader.read()


@asynccontextmanager
async def stream_server(*scripts: StreamScript | Refuse | Raw | bytes, chunked: bool = False) -> AsyncIterator[Server]:
    """bytes: a whole answer, then the end. The last script is played again and again."""
    server = Server()
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            step = scripts[min(server.note(head[0].split(" ")[1], headers), len(scripts) - 1)]
            if isinstance(step, Raw):
                await step.play(reader, writer, _accepted(server.seen[-1].get("sec-websocket-key", "")))
            else:
                await _play(step, reader, writer, chunked)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()[:2]
    server.url = f"http://{host}:{port}"
    try:
        yield server
    finally:
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _accepted(key: str) -> bytes:
    """The 101 to this key (RFC 6455, 4.2.2)."""
    digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Protocol: zpush.v1\r\nSec-WebSocket-Accept: %b\r\n\r\n" % base64.b64encode(digest)
    )


async def _play(
    step: StreamScript | Refuse | bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chunked: bool
) -> None:
    if isinstance(step, bytes):
        writer.write(step)
        await writer.drain()
    elif isinstance(step, Refuse):
        fields = "".join(f"{name}: {value}\r\n" for name, value in step.headers.items())
        writer.write(
            f"HTTP/1.1 {step.status} No\r\n{fields}Content-Length: {len(step.body)}\r\n\r\n{step.body}".encode()
        )
        await writer.drain()
    else:
        transfer = b"Transfer-Encoding: chunked\r\n" if chunked else b"Connection: close\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%b\r\n" % transfer)
        await step(Stream(reader, writer, chunked))


class Sleeps:
    """For Client(sleep=…): waits no time, and remembers how long it should have been."""

    def __init__(self) -> None:
        self.asked_s: list[float] = []

    async def __call__(self, delay_s: float) -> None:
        self.asked_s.append(delay_s)
        await asyncio.sleep(0)


class States:
    """For Client(on_state=…)."""

    def __init__(self) -> None:
        self.told: list[State] = []
        self.details: list[str] = []

    def __call__(self, state: State, detail: str) -> None:
        self.told.append(state)
        self.details.append(detail)

    async def reached(self, state: State, times: int = 1) -> None:
        await eventually(lambda: self.told.count(state) >= times, f"{state} {times} times, not {self.told}")


async def take(client: Client, count: int, timeout_s: float = 30.0) -> list[Any]:
    """The data of the next messages."""
    async with asyncio.timeout(timeout_s):
        return [(await anext(client)).data for _ in range(count)]
