"""Every row of the close-code table and every refusal, on both transports: what the client does next, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Literal

import pytest

from tests.client.servers import (
    Refuse,
    Server,
    Sleeps,
    States,
    Stream,
    push,
    says,
    stream_server,
    take,
    websocket_server,
)
from tests.support import eventually, free_port
from zpush.client import Client, Limits, State, Stopped
from zpush.client.pace import BASE_S, LONG_BASE_S, Pace
from zpush.errors import Unavailable
from zpush.protocol.close import CLOSE_CODES, Next, after_close

Transport = Literal["websocket", "sse"]
TRANSPORTS: list[Transport] = ["websocket", "sse"]


@asynccontextmanager
async def server_of(transport: Transport, *steps: int | str | Refuse) -> AsyncIterator[Server]:
    """A step: close with this code; send this text and stay; or refuse."""
    if transport == "websocket":
        async with websocket_server(*map(_websocket, steps)) as server:
            yield server
    else:
        async with stream_server(*map(_stream, steps)) as server:
            yield server


def _websocket(step: int | str | Refuse) -> Any:
    if isinstance(step, int):
        return says(code=step)
    return says(push("", step)) if isinstance(step, str) else step


def _stream(step: int | str | Refuse) -> Any:
    async def play(stream: Stream) -> None:
        if isinstance(step, int):
            await stream.close(step)
        else:
            await stream.event("push", str(step))
            await stream.gone()

    return step if isinstance(step, Refuse) else play


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("code", [*CLOSE_CODES, 4999])
async def test_every_row_of_the_table(transport: Transport, code: int) -> None:
    sleeps, then = Sleeps(), after_close(code)
    tokens = iter(["first", "second"])
    async with server_of(transport, code, "back") as server:
        client = Client(server.url, transport=transport, token=lambda: next(tokens), sleep=sleeps, rng=_Highest())
        async with client:
            if then is Next.NEVER:
                with pytest.raises(Stopped) as stopped:
                    await take(client, 1)
                assert stopped.value.code == code
                assert client.state is State.STOPPED
                assert server.opened == 1
            else:
                assert await take(client, 1) == ["back"]
    used = [head["authorization"].removeprefix("Bearer ") for head in server.seen]
    if then is Next.TOKEN_FIRST:
        assert (used, sleeps.asked_s) == (["first", "second"], [])
    elif then is not Next.NEVER:
        expected = {Next.AFTER_DELAY: [], Next.BACKOFF: [BASE_S], Next.LONG_BACKOFF: [LONG_BASE_S]}[then]
        assert (used, sleeps.asked_s) == (["first", "first"], pytest.approx(expected))


class _Highest(Random):
    """Every random wait is as long as it may be."""

    def random(self) -> float:
        return 1.0


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("code", [code for code in CLOSE_CODES if after_close(code) is Next.TOKEN_FIRST])
async def test_a_fixed_token_that_is_not_wanted_any_more_stops(transport: Transport, code: int) -> None:
    async with server_of(transport, code) as server, Client(server.url, transport=transport, token="fixed") as client:
        with pytest.raises(Stopped) as stopped:
            await take(client, 1)
    assert (stopped.value.code, server.opened) == (code, 1)
    assert "fixed" not in str(stopped.value)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("status", [400, 403, 404, 405, 426, 431])
async def test_refusals_that_would_come_again_stop(transport: Transport, status: int) -> None:
    async with server_of(transport, Refuse(status)) as server, Client(server.url, transport=transport) as client:
        with pytest.raises(Stopped, match=f"refused with {status}: not you") as stopped:
            await take(client, 1)
        with pytest.raises(Stopped):
            await client.wait_open()
    assert (stopped.value.code, server.opened) == (status, 1)


async def test_a_replaced_event_stream_is_answered_204() -> None:
    async with (
        stream_server(b"HTTP/1.1 204 No Content\r\n\r\n") as server,
        Client(server.url, transport="sse") as client,
    ):
        with pytest.raises(Stopped) as stopped:
            await take(client, 1)
    assert stopped.value.code == 204


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("refusal", "waits_s"),
    [
        (Refuse(503, {"Retry-After": "7"}), [7.5, 8.0]),
        (Refuse(503, {"Retry-After": "99999999"}), [600.5, 601.0]),
        (Refuse(503, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}), [10, 20]),
        (Refuse(503), [10, 20]),
        (Refuse(429, {"Retry-After": "7"}), [7.5, 8.0]),
        (Refuse(502, body="<html>Bad Gateway</html>"), [0.5, 1.0]),
        (Refuse(500, body=""), [0.5, 1.0]),
    ],
)
async def test_refusals_that_pass(transport: Transport, refusal: Refuse, waits_s: list[float]) -> None:
    sleeps, states = Sleeps(), States()
    async with server_of(transport, refusal, refusal, "back") as server:
        client = Client(server.url, transport=transport, sleep=sleeps, on_state=states, rng=_Highest())
        async with client:
            assert await take(client, 1) == ["back"]
    assert sleeps.asked_s == pytest.approx(waits_s)
    assert states.told[:3] == [State.CONNECTING, State.WAITING, State.CONNECTING]
    assert str(refusal.status) in states.details[1]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_401_asks_for_a_new_token(transport: Transport) -> None:
    asked = 0

    async def token() -> str:
        nonlocal asked
        asked += 1
        return f"token-{asked}"

    sleeps = Sleeps()
    async with (
        server_of(transport, Refuse(401), Refuse(401), Refuse(401), "in") as server,
        Client(server.url, transport=transport, token=token, sleep=sleeps, rng=_Highest()) as client,
    ):
        assert await take(client, 1) == ["in"]
    assert [head["authorization"] for head in server.seen] == [f"Bearer token-{i}" for i in (1, 2, 3, 4)]
    assert sleeps.asked_s == pytest.approx([1.0, 2.0])  # the first at once; then nobody falls upon the signer


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("token", [None, "fixed"])
async def test_401_without_a_callback_stops(transport: Transport, token: str | None) -> None:
    async with (
        server_of(transport, Refuse(401)) as server,
        Client(server.url, transport=transport, token=token) as client,
    ):
        with pytest.raises(Stopped, match="401"):
            await take(client, 1)
    assert server.opened == 1


async def test_a_callback_that_has_no_token_stops() -> None:
    async with Client("ws://127.0.0.1:1", token=lambda: None) as client:
        with pytest.raises(Stopped, match="no token"):
            await take(client, 1)


@pytest.mark.parametrize("error", [Unavailable("the signer is away"), ConnectionRefusedError(), TimeoutError()])
async def test_a_callback_that_fails_for_a_while(error: Exception) -> None:
    answers: list[Exception | str] = [error, error, "token"]

    def token() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    sleeps = Sleeps()
    async with server_of("websocket", "in") as server, Client(server.url, token=token, sleep=sleeps) as client:
        assert await take(client, 1) == ["in"]
    assert len(sleeps.asked_s) == 2


async def test_a_callback_with_a_bug_ends_the_client() -> None:
    def token() -> str:
        raise KeyError("a bug")

    client = Client("ws://127.0.0.1:1", token=token)
    with pytest.raises(KeyError):
        await client.wait_open()
    with pytest.raises(KeyError):
        await client.aclose()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_nobody_there_then_somebody(transport: Transport) -> None:
    """The port is refused until the third attempt."""
    port = free_port()
    waits = 0
    servers: list[asyncio.Server] = []

    async def listen() -> None:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()

        servers.append(await asyncio.start_server(greet, "127.0.0.1", port))

    async def sleep(delay_s: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 3:
            await listen()

    async with Client(f"ws://127.0.0.1:{port}", transport=transport, sleep=sleep) as client:
        with pytest.raises(Stopped, match="404"):
            await take(client, 1)
    assert waits == 3
    for server in servers:
        server.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 101 Switching",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAA\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000,
    ],
)
async def test_what_is_no_such_server_is_tried_again(transport: Transport, answer: bytes) -> None:
    sleeps = Sleeps()
    async with (
        stream_server(answer, answer, Refuse(404)) as server,
        Client(server.url, transport=transport, sleep=sleeps) as client,
    ):
        with pytest.raises(Stopped, match="404"):
            await take(client, 1)
    assert (server.opened, len(sleeps.asked_s)) == (3, 2)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_server_that_never_answers_is_given_up(transport: Transport) -> None:
    heads = 0

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heads
        heads += 1
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    url = f"ws://127.0.0.1:{port}"
    states = States()
    async with Client(url, transport=transport, limits=Limits(open_s=0.05), sleep=Sleeps(), on_state=states):
        await states.reached(State.WAITING, 2)
        # An attempt may be over before its connection is there: it goes on until two were.
        await eventually(lambda: heads >= 2, "two connections")
    listener.close()
    assert "TimeoutError" in states.details[1]


def test_the_pace_of_coming_back() -> None:
    pace = Pace(_Highest())
    assert [pace.failed(Next.BACKOFF) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert pace.ended(9.9, Next.BACKOFF) == 30
    assert pace.ended(10.0, Next.BACKOFF) == 0.5
    assert pace.ended(60.0, Next.AFTER_DELAY) == 0
    assert pace.ended(0.1, Next.AFTER_DELAY) == 1.0  # a server that closes at once is not asked at once again
    assert [pace.failed(Next.LONG_BACKOFF) for _ in range(6)] == [40, 80, 160, 300, 300, 300]


def test_waits_are_spread_over_their_whole_range() -> None:
    waits = [Pace(Random(seed)).failed(Next.LONG_BACKOFF) for seed in range(500)]
    assert min(waits) < 0.5 and max(waits) > 9.5
    assert 4 < sum(waits) / len(waits) < 6


def test_a_go_away_names_its_delay_or_it_is_drawn() -> None:
    pace = Pace(Random(1))
    assert pace.going(60.0, 1.25) == 1.25
    assert pace.going(60.0, 86400.0) == 30
    assert len({pace.going(60.0, None) for _ in range(20)}) == 20
    assert all(0 <= pace.going(60.0, None) <= 2 for _ in range(100))


def test_a_server_that_always_asks_to_go_is_not_asked_at_once_again() -> None:
    pace = Pace(_Highest())
    assert [pace.going(0.1, 0.0) for _ in range(4)] == [0, 1, 2, 4]
    assert pace.going(0.1, 20.0) == 20
    assert pace.going(1.0, 0.0) == 0


def test_an_old_failure_does_not_slow_a_hand_over() -> None:
    pace = Pace(_Highest())
    assert [pace.failed(Next.BACKOFF) for _ in range(5)][-1] == 8
    pace.going(1800.0, 0.0)
    assert pace.failed(Next.BACKOFF) == 0.5
