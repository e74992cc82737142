"""Zuul Push's own sender interface, for the whole cluster: its status codes in its order of checks."""

from __future__ import annotations

import httpx
import pytest

from tests.road.api import Api
from tests.road.devices import Connect, Spread, open_stream
from tests.road.server import Server

TOKEN = "X-Zuul.Push.Secure.Token"


async def zuul(api: Api, method: str, client_id: str | None, body: str = "", **headers: str) -> httpx.Response:
    if client_id is not None:
        headers["X-CUSTOMER_ID"] = client_id
    return await api.http.request(method, "/push", content=body, headers=headers)


async def test_a_push_reaches_clients_of_either_worker(server: Server, api: Api, spread: Spread) -> None:
    for device in await spread(server):
        assert (await zuul(api, "GET", device.client_id)).status_code == 200
        assert (await zuul(api, "POST", device.client_id, "hello, zuul")).status_code == 200
        assert await device.receive() == "hello, zuul"


async def test_a_push_reaches_an_event_stream(server: Server, api: Api, name: str) -> None:
    async with open_stream(server, name) as stream:
        assert (await zuul(api, "POST", name, "hello\nzuul")).status_code == 200
        event = await stream.receive()
        assert (event.event, event.data) == ("push", "hello\nzuul")


async def test_binary_is_sent_as_such(server: Server, api: Api, connect: Connect, name: str) -> None:
    device = await connect(server, name)
    response = await api.http.post(
        "/push", content=b"\xff\x00", headers={"X-CUSTOMER_ID": name, "Content-Type": "application/octet-stream"}
    )
    assert response.status_code == 200
    assert await device.receive() == b"\xff\x00"


@pytest.mark.parametrize(
    ("method", "status"),
    [("GET", 404), ("POST", 404), ("PUT", 405), ("DELETE", 405)],
)
async def test_who_is_not_connected(server: Server, api: Api, name: str, method: str, status: int) -> None:
    assert (await zuul(api, method, name, "hello" if method == "POST" else "")).status_code == status


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_who_is_not_named(server: Server, api: Api, method: str) -> None:
    assert (await zuul(api, method, None)).status_code == 401


async def test_an_empty_body_and_a_wrong_token(server: Server, api: Api, connect: Connect, name: str) -> None:
    await connect(server, name)
    assert (await zuul(api, "POST", name)).status_code == 204
    assert (await zuul(api, "POST", name, "hello", **{TOKEN: "wrong"})).status_code == 403
    assert (await zuul(api, "POST", f"{name}-nobody")).status_code == 404
