"""Behind a load balancer: PROXY headers, then what proxies write into the head, then limits by the client's address.

127.0.0.1 is the load balancer, 127.0.1.0/24 are proxies behind it. In auth.mode dev a client must be on loopback, so
a client from elsewhere is 401: authentication sees the address that counts.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from websockets.asyncio.client import connect as websocket
from websockets.exceptions import InvalidStatus

from tests._fast.proxy_support import LOCAL, SIGNATURE, v1, v2_from
from tests.road.api import PATIENCE_S, Api
from tests.road.devices import Device
from tests.road.server import Server
from tests.support import eventually

SETTINGS = (
    "server.workers=1",  # limits are per worker
    "connections.proxy_protocol=true",
    "connections.trusted_proxies=127.0.0.1,127.0.1.0/24",
    "connections.per_address=2",
)
Come = Callable[..., Awaitable[Device]]


async def raw(server: Server, source: str, header: bytes) -> socket.socket:
    host, port = server.clients.split(":")
    sock = socket.socket()
    sock.bind((source, 0))
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (host, int(port)))
    await loop.sock_sendall(sock, header)
    return sock


async def answer(server: Server, source: str, sent: bytes) -> bytes:
    sock = await raw(server, source, sent)
    with sock:
        found = b""
        async with asyncio.timeout(PATIENCE_S):
            while data := await asyncio.get_running_loop().sock_recv(sock, 65536):
                found += data
        return found


@pytest.fixture
async def come(server: Server, name: str) -> AsyncIterator[Come]:
    """come(header, forwarded=…, source=…): a device behind proxies."""
    devices: list[Device] = []

    async def open_one(header: bytes, forwarded: str = "", source: str = "127.0.0.1") -> Device:
        client_id = f"{name}-{len(devices)}"
        connection = await websocket(
            f"ws://{server.clients}/ws?client={client_id}",
            sock=await raw(server, source, header),
            additional_headers={"X-Forwarded-For": forwarded} if forwarded else None,
            open_timeout=PATIENCE_S,
            ping_interval=None,
        )
        devices.append(Device(client_id, connection))
        return devices[-1]

    yield open_one
    for device in devices:
        await device.close()


@pytest.mark.parametrize("header", [v1("TCP4", "127.0.0.5", "127.0.0.1", 4711, 80), v2_from("127.0.0.5", 4711)])
async def test_a_device_behind_a_load_balancer(api: Api, come: Come, header: bytes) -> None:
    device = await come(header)
    assert await api.direct(device.client_id, "hello") == "delivered"
    assert await device.receive() == "hello"


async def test_authentication_sees_the_client_not_the_proxy(come: Come) -> None:
    with pytest.raises(InvalidStatus, match="401"):
        await come(v2_from("203.0.113.9", 1))
    with pytest.raises(InvalidStatus, match="401"):
        await come(v2_from("127.0.1.7", 1), "127.0.0.8, 203.0.113.9, 127.0.1.8")
    await come(v2_from("127.0.1.7", 1), "203.0.113.9, 127.0.0.8, 127.0.1.8")
    await come(v2_from("127.0.0.7", 1), "203.0.113.9")  # not a proxy's word


async def test_an_address_has_its_share_whichever_way_it_comes(api: Api, come: Come) -> None:
    before = (await api.metrics()).total("zpush_handshakes_total", result="address_limited")
    await come(v2_from("127.0.0.6", 1))
    last = await come(v2_from("127.0.1.7", 1), "127.0.0.6")
    refused: list[Callable[[], Awaitable[Device]]] = [
        lambda: come(v1("TCP4", "127.0.0.6", "127.0.0.1", 1, 2)),
        lambda: come(v2_from("127.0.1.7", 1), "127.0.0.6:99"),
        lambda: come(b"", source="127.0.0.6"),
    ]
    for way in refused:
        with pytest.raises(InvalidStatus) as caught:
            await way()
        assert caught.value.response.status_code == 429
        assert int(caught.value.response.headers["Retry-After"]) >= 10
    after = (await api.metrics()).total("zpush_handshakes_total", result="address_limited")
    assert after == before + 3
    await last.close()

    async def is_let_in() -> bool:
        try:
            return bool(await come(b"", source="127.0.0.6"))
        except InvalidStatus:
            return False

    await eventually(is_let_in, "the address is let in again")


async def test_the_header_is_required_of_the_load_balancer_and_of_nobody_else(server: Server, api: Api) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    assert (await answer(server, "127.0.0.1", LOCAL + request)).startswith(b"HTTP/1.1 200 ")
    assert (await answer(server, "127.0.0.9", request)).startswith(b"HTTP/1.1 200 ")
    assert await answer(server, "127.0.0.1", request) == b""
    await api.until_counted("zpush_handshakes_total", 1, result="proxy")
    for header in (v1("TCP4", "127.0.0.5", "127.0.0.1", 1, 2), v2_from("127.0.0.5", 1)):
        assert (await answer(server, "127.0.0.9", header + request)).startswith(b"HTTP/1.1 400 ")


BAD_HEADERS = {
    "malformed": b"PROXY TCP4 127.0.0.5\r\n",
    "a line of 4 KiB": b"PROXY UNKNOWN " + b"x" * 4096 + b"\r\n",
    "4 KiB announced": SIGNATURE + b"\x21\x11\x10\x00" + bytes(4096),
    "too short for its address": SIGNATURE + b"\x21\x11\x00\x04" + bytes(4),
    "of no version": SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12),
}


@pytest.mark.parametrize("header", BAD_HEADERS.values(), ids=BAD_HEADERS)
async def test_a_bad_header_ends_the_connection_and_disturbs_nobody(
    server: Server, api: Api, come: Come, header: bytes
) -> None:
    settled = await come(v2_from("127.0.0.5", 1))
    before = (await api.metrics()).total("zpush_handshakes_total", result="proxy")
    assert await answer(server, "127.0.0.1", header + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") == b""
    await api.until_counted("zpush_handshakes_total", before + 1, result="proxy")
    assert await api.direct(settled.client_id, "hello") == "delivered"
    assert await settled.receive() == "hello"


@pytest.mark.parametrize("header", [v1("TCP4", "127.0.0.5", "127.0.0.1", 1, 2), v2_from("127.0.0.5", 1)])
async def test_half_a_header_and_the_end(server: Server, api: Api, header: bytes) -> None:
    before = (await api.metrics()).total("zpush_handshakes_total", result="proxy")
    with await raw(server, "127.0.0.1", header[:-1]) as half:
        half.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(PATIENCE_S):
            assert await asyncio.get_running_loop().sock_recv(half, 1) == b""
    await api.until_counted("zpush_handshakes_total", before + 1, result="proxy")
