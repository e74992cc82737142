"""The connection's own token, where the program asks for it: on every transport, anew with each connection."""

from __future__ import annotations

import pytest

from tests.client.servers import Sleeps, Stream, go_away, push, says, stream_server, take, websocket_server
from tests.client.test_real_server import KINDS
from tests.road.api import Api
from tests.road.server import Server
from tests.support import eventually
from zpush.client import Client, Received


async def test_it_comes_before_the_first_message_and_anew_with_each_connection() -> None:
    told: list[str | Received] = []

    async def on_secure_token(token: str) -> None:
        told.append(token)

    first = says('{"secure_token":"one"}', push("1", "a"), go_away())
    async with websocket_server(first, says('{"secure_token":"two"}', push("2", "b"))) as server:
        client = Client(
            server.url, client_id="c", on_secure_token=on_secure_token, on_message=told.append, sleep=Sleeps()
        )
        assert client.secure_token == ""
        async with client:
            await server.has_seen(2)
            await eventually(lambda: len(told) == 4)
            assert client.secure_token == "two"
    assert told == ["one", Received("1", "a"), "two", Received("2", "b")]
    assert server.paths == ["/ws?client=c&secure_token=1"] * 2


async def test_raw_connections_have_it_as_their_first_text() -> None:
    script = says('{"secure_token":"one"}', '{"secure_token":"a payload"}', "_CLOSE_")
    tokens: list[str] = []
    async with (
        websocket_server(script, says('{"secure_token":1}')) as server,
        Client(server.url, protocol="zpush.raw", on_secure_token=tokens.append, sleep=Sleeps()) as client,
    ):
        assert await take(client, 2) == ['{"secure_token":"a payload"}', '{"secure_token":1}']
    assert tokens == ["one"]


async def test_who_does_not_ask_hears_of_none() -> None:
    script = says('{"secure_token":"one"}', push("1", "a"))
    async with websocket_server(script) as server, Client(server.url) as client:
        assert await take(client, 1) == ["a"]
        assert client.secure_token == ""
    async with websocket_server(script) as server, Client(server.url, protocol="zpush.raw") as client:
        assert await take(client, 1) == ['{"secure_token":"one"}']
    assert server.paths == ["/ws"]


async def test_on_an_event_stream() -> None:
    async def script(stream: Stream) -> None:
        await stream.event("secure_token", "one")
        await stream.event("push", "a", "1")
        await stream.gone()

    tokens: list[str] = []
    async with (
        stream_server(script) as server,
        Client(server.url, transport="sse", on_secure_token=tokens.append) as client,
    ):
        assert await take(client, 1) == ["a"]
    assert (tokens, server.paths) == (["one"], ["/sse?secure_token=1"])


@pytest.mark.parametrize("kind", KINDS)
async def test_pushes_that_carry_it_arrive(server: Server, api: Api, kind: str, name: str) -> None:
    tokens: list[str] = []
    client = Client(f"ws://{server.clients}", client_id=name, on_secure_token=tokens.append, **KINDS[kind])
    async with client:
        await eventually(lambda: tokens)
        assert client.secure_token == tokens[0]
        assert await api.direct(name, "right", secure_token=tokens[0]) == "delivered"
        assert await api.direct(name, "wrong", secure_token="x" * 20) == "rejected"
        assert await take(client, 1) == ["right"]
