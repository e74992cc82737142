"""Event streams: the format, what proxies and browsers need, and who may read."""

from __future__ import annotations

import httpx

from tests.road.api import Api
from tests.road.devices import open_stream
from tests.road.server import Server
from tests.support import eventually

SETTINGS = ("connections.origins=['https://app.example']", "connections.keepalive=1s")
PAGE = "https://app.example"


async def test_events_carry_id_kind_and_data(server: Server, api: Api, name: str) -> None:
    async with open_stream(server, name) as stream:
        assert stream.retry_ms == 3000
        assert stream.response.headers["Content-Type"] == "text/event-stream"
        assert stream.response.headers["Cache-Control"] == "no-store"
        texts = (("one", "one"), ("a\nb\r\nc\rd", "a\nb\nc\nd"), ("", ""), (" x", " x"))
        for number, (text, arrives) in enumerate(texts):
            await api.push({"client": name}, text=text, id=f"m{number}")
            event = await stream.receive()
            assert (event.event, event.id, event.data) == ("push", f"m{number}", arrives)
        await api.push({"client": name}, data={"b": [1]})
        assert (await stream.receive()).json() == {"b": [1]}


async def test_a_first_connection_with_an_ordinary_last_event_id_is_welcome(
    server: Server, api: Api, name: str
) -> None:
    async with open_stream(server, name, **{"Last-Event-ID": "m17"}):
        assert await api.direct(name, "hello") == "delivered"


async def test_comments_keep_a_quiet_stream_alive(server: Server, name: str) -> None:
    async with (
        httpx.AsyncClient(base_url=f"http://{server.clients}", trust_env=False, timeout=10.0) as client,
        client.stream("GET", "/sse", params={"client": name}) as response,
    ):
        async for line in response.aiter_lines():
            if line.startswith(":"):
                return
    raise AssertionError("the stream ended")


async def test_allowed_pages_may_read_with_credentials(server: Server, name: str) -> None:
    async with open_stream(server, name, Origin=PAGE) as stream:
        assert stream.response.headers["Access-Control-Allow-Origin"] == PAGE
        assert stream.response.headers["Access-Control-Allow-Credentials"] == "true"
    async with httpx.AsyncClient(base_url=f"http://{server.clients}", trust_env=False) as client:
        preflight = {"Origin": PAGE, "Access-Control-Request-Method": "GET"}
        response = await client.options("/sse", headers=preflight)
        assert response.status_code == 204
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        refused = await client.get("/sse", params={"client": name}, headers={"Origin": "https://other.example"})
        assert refused.status_code == 400
        assert "Access-Control-Allow-Origin" not in refused.headers


async def test_a_stream_that_its_reader_left_is_offline(server: Server, api: Api, name: str) -> None:
    async with open_stream(server, name):
        assert await api.direct(name, "hello") == "delivered"

    async def offline() -> bool:
        return await api.direct(name, "gone?") == "offline"

    await eventually(offline, "nobody reads it")
