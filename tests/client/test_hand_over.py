"""Hand-over-hand: the next connection is open before the old one ends, nothing is missed, doubled or out of order."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import pytest
from websockets.asyncio.server import ServerConnection

from tests.client.servers import (
    Raw,
    Refuse,
    Sleeps,
    States,
    Stream,
    go_away,
    push,
    says,
    stay,
    stream_server,
    take,
    websocket_server,
)
from tests.support import eventually
from zpush._fast.frames import MESSAGE, FrameReader, encode_frame
from zpush.client import Client, Limits, State, Stopped
from zpush.client.events import Ended, Event, GoAway
from zpush.client.pump import Pump

Protocol = Literal["zpush.v1", "zpush.raw"]


def asks_to_go(protocol: Protocol, delay_ms: int = 0, reason: str = "max_age") -> str:
    return go_away(delay_ms, reason) if protocol == "zpush.v1" else "_CLOSE_"


def message(protocol: Protocol, text: str) -> str:
    return push(text, text) if protocol == "zpush.v1" else text


@pytest.mark.parametrize("protocol", ["zpush.v1", "zpush.raw"])
async def test_the_new_one_is_open_before_the_old_one_is_left(protocol: Protocol) -> None:
    """What the old one says until its closing handshake arrives, and before anything that the new one says."""
    new_is_open, old_codes = asyncio.Event(), []

    async def old(connection: ServerConnection) -> None:
        await connection.send(message(protocol, "before"))
        await connection.send(asks_to_go(protocol))
        await connection.send(message(protocol, "between"))
        await new_is_open.wait()
        await connection.send(message(protocol, "late"))
        await connection.wait_closed()
        old_codes.append(connection.close_code)

    async def new(connection: ServerConnection) -> None:
        await connection.send(message(protocol, "new"))
        new_is_open.set()
        await connection.wait_closed()

    states = States()
    async with websocket_server(old, new) as server:
        client = Client(server.url, protocol=protocol, on_state=states, sleep=Sleeps())
        async with client:
            assert await take(client, 4) == ["before", "between", "late", "new"]
            await states.reached(State.OPEN, 2)
    assert old_codes == [1000]
    assert states.told == [State.CONNECTING, State.OPEN, State.HANDING_OVER, State.OPEN, State.STOPPED]


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_event_stream_is_read_to_its_end(chunked: bool) -> None:
    """A stream cannot be left with a handshake: the server ends the replaced one."""
    new_is_open = asyncio.Event()

    async def old(stream: Stream) -> None:
        await stream.event("push", "before", "1")
        await stream.event("goaway", "_CLOSE_")
        await stream.event("push", "between", "2")
        await new_is_open.wait()
        await stream.event("push", "late", "3")
        await stream.close(4002)

    async def new(stream: Stream) -> None:
        await stream.event("push", "late", "3")
        await stream.event("push", "new", "4")
        new_is_open.set()
        await stream.gone()

    async with (
        stream_server(old, new, chunked=chunked) as server,
        Client(server.url, transport="sse", sleep=Sleeps()) as client,
    ):
        assert await take(client, 4) == ["before", "between", "late", "new"]
        assert client.state is State.OPEN
    assert server.seen[1]["last-event-id"] == "2"
    assert "last-event-id" not in server.seen[0]


async def test_4002_on_the_old_one_is_what_was_wanted() -> None:
    async def old(connection: ServerConnection) -> None:
        await connection.send(go_away())
        await server.has_seen(2)
        await connection.close(4002)

    async with (
        websocket_server(old, says(push("1", "new"))) as server,
        Client(server.url) as client,
    ):
        assert await take(client, 1) == ["new"]


async def test_4002_and_a_new_one_that_fails_is_tried_again() -> None:
    """Its lease had replaced the old one's: nobody else has this client id."""

    async def old(connection: ServerConnection) -> None:
        await connection.send(go_away())
        await server.has_seen(2)
        await connection.close(4002)

    async with websocket_server(old, Refuse(500), says(push("1", "new"))) as server, Client(server.url) as client:
        assert await take(client, 1) == ["new"]


async def test_4002_before_the_new_one_was_asked_for_is_another_client() -> None:
    never, states = asyncio.Event(), States()

    async def sleep(delay_s: float) -> None:
        await never.wait()

    async def old(connection: ServerConnection) -> None:
        await connection.send(go_away(60_000))
        await states.reached(State.HANDING_OVER)
        await connection.close(4002)

    async with websocket_server(old) as server, Client(server.url, sleep=sleep, on_state=states) as client:
        with pytest.raises(Stopped) as stopped:
            await take(client, 1)
    assert (stopped.value.code, server.opened) == (4002, 1)


async def test_an_operator_stops_a_hand_over() -> None:
    async def old(connection: ServerConnection) -> None:
        await connection.send(go_away())
        await server.has_seen(2)
        await connection.close(4005)

    async with (
        websocket_server(old, Refuse(503), says(push("1", "never"))) as server,
        Client(server.url) as client,
    ):
        with pytest.raises(Stopped) as stopped:
            await take(client, 1)
    assert (stopped.value.code, server.opened) == (4005, 2)


async def test_an_operator_stops_a_hand_over_that_was_nearly_done() -> None:
    new_ended = asyncio.Event()

    async def old(stream: Stream) -> None:
        await stream.event("goaway", "_CLOSE_")
        await server.has_seen(2)
        await stream.close(4005)

    async def new(stream: Stream) -> None:
        await stream.gone()
        new_ended.set()

    async with stream_server(old, new) as server, Client(server.url, transport="sse", sleep=Sleeps()) as client:
        with pytest.raises(Stopped) as stopped:
            await take(client, 1)
        async with asyncio.timeout(30):
            await new_ended.wait()
    assert stopped.value.code == 4005


@pytest.mark.parametrize("code", [1000, 1001, 4006])
async def test_the_old_one_ends_before_the_new_one_is_open(code: int) -> None:
    """The grace is over while the second attempt is still being refused."""
    ended = asyncio.Event()

    async def old(connection: ServerConnection) -> None:
        await connection.send(go_away())
        await server.has_seen(2)
        await connection.close(code)
        ended.set()

    async def sleep(delay_s: float) -> None:
        if delay_s:
            await ended.wait()

    states = States()
    async with (
        websocket_server(old, Refuse(503), says(push("1", "new"))) as server,
        Client(server.url, sleep=sleep, on_state=states) as client,
    ):
        assert await take(client, 1) == ["new"]
    assert states.told[:4] == [State.CONNECTING, State.OPEN, State.HANDING_OVER, State.CONNECTING]
    assert states.told[-2:] == [State.OPEN, State.STOPPED]


async def test_go_away_and_end_as_one() -> None:
    """Both were in the client's socket before it read either: the delay of the go-away counts."""
    sleeps = Sleeps()
    blocked = asyncio.Event()

    async def wait(message: object) -> None:
        if not blocked.is_set():
            await blocked.wait()
        taken.append(message)

    async def old(connection: ServerConnection) -> None:
        await connection.send(push("1", "first"))
        await connection.send(go_away(1234))
        asyncio.get_running_loop().call_later(0.05, blocked.set)
        await connection.close(1000)

    taken: list[Any] = []
    async with (
        websocket_server(old, says(push("2", "second"))) as server,
        Client(server.url, sleep=sleeps, on_message=wait),
    ):
        await eventually(lambda: len(taken) == 2, "two messages")
    assert sleeps.asked_s[0] == pytest.approx(1.234)


async def test_an_old_one_that_does_not_end_is_left_behind() -> None:
    async def old(stream: Stream) -> None:
        await stream.event("goaway", "_CLOSE_")
        await stream.gone()

    async def new(stream: Stream) -> None:
        await stream.event("push", "new", "1")
        await stream.gone()

    async with stream_server(old, new) as server:
        client = Client(server.url, transport="sse", sleep=Sleeps(), limits=Limits(handover_s=0.05))
        async with client:
            assert await take(client, 1) == ["new"]


async def test_a_slow_consumer_loses_nothing_of_the_old_one() -> None:
    """The time that the consumer takes is not the old connection's: what it said is taken, however late."""

    async def old(stream: Stream) -> None:
        await stream.event("goaway", "_CLOSE_")
        await server.has_seen(2)
        for i in range(10):
            await stream.event("push", f"old {i}", f"o{i}")
            await asyncio.sleep(0.01)  # so that the client has to wait for most of them
        await stream.close(4002)

    async def new(stream: Stream) -> None:
        await stream.event("push", "new", "n")
        await stream.gone()

    limits = Limits(queued=2, handover_s=1.0)
    async with (
        stream_server(old, new) as server,
        Client(server.url, transport="sse", sleep=Sleeps(), limits=limits) as client,
    ):
        await server.has_seen(2)
        got = []
        for _ in range(11):
            await asyncio.sleep(0.12)  # the consumer's work: longer in all than handover_s
            got += await take(client, 1)
    assert got == [*(f"old {i}" for i in range(10)), "new"]


@pytest.mark.parametrize(("reason", "tokens"), [("max_age", 1), ("shutdown", 1), ("something_later", 2)])
async def test_a_new_token_where_the_old_one_ends(reason: str, tokens: int) -> None:
    asked = 0

    def token() -> str:
        nonlocal asked
        asked += 1
        return f"t{asked}"

    async with (
        websocket_server(says(go_away(0, reason)), says(push("1", "new"))) as server,
        Client(server.url, token=token) as client,
    ):
        assert await take(client, 1) == ["new"]
    assert asked == tokens
    assert server.seen[1]["authorization"] == f"Bearer t{tokens}"


async def test_a_successor_that_is_refused_for_good_lets_the_old_one_finish() -> None:
    async def old(connection: ServerConnection) -> None:
        await connection.send(go_away())
        await server.has_seen(2)
        await connection.send(push("1", "last words"))
        await connection.close(1000)

    async with websocket_server(old, Refuse(401)) as server, Client(server.url, token="fixed") as client:
        assert await take(client, 1) == ["last words"]
        with pytest.raises(Stopped, match="401"):
            await take(client, 1)


async def test_asked_twice_is_asked_once() -> None:
    """However often a server asks, what waits for an answer is one go-away."""

    class Insistent:
        events: list[Event] = [GoAway("max_age", float(i)) for i in range(10_000)] + [Ended(1000)]

        async def receive(self) -> Event:
            return self.events.pop(0)

    async def take_nothing(told: object) -> None:
        raise AssertionError

    pump = Pump(Insistent(), take_nothing)  # type: ignore[arg-type]
    assert (await pump.task).code == 1000
    assert [await pump.asked_to_go(), await pump.asked_to_go()] == [GoAway("max_age", 0.0), None]


async def test_what_comes_behind_the_closing_handshake_is_acknowledged_on_the_new_one() -> None:
    """The old one hears nothing any more."""
    acks: list[str] = []

    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, accepted: bytes) -> None:
        writer.write(accepted + encode_frame(1, go_away().encode()))
        while (await reader.readexactly(1))[0] != 0x88:  # a close frame's first byte
            pass
        writer.write(encode_frame(1, push("1", "late").encode()) + encode_frame(8, b"\x03\xe8"))
        await reader.read()

    async def new(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, accepted: bytes) -> None:
        writer.write(accepted)
        frames = FrameReader(1000, 1)
        while data := await reader.read(1000):
            acks.extend(json.loads(event[3])["ack"] for event in frames.feed(data) if event[0] == MESSAGE)

    async with (
        stream_server(Raw(old), Raw(new)) as server,
        Client(server.url, sleep=Sleeps(), ack=True, on_message=lambda message: None),
    ):
        await eventually(lambda: acks == ["1"], "the ack")


async def test_closing_in_the_middle_of_a_hand_over_leaves_nothing_open() -> None:
    for opened in (1, 2):  # before and after the new one has asked
        states = States()
        async with websocket_server(says(go_away()), stay) as server:
            async with Client(server.url, on_state=states):
                await states.reached(State.HANDING_OVER)
                await server.has_seen(opened)
            await eventually(lambda: server.held() == 0, "all connections closed")


async def test_a_hundred_hand_overs_in_a_row() -> None:
    sent = 0

    async def script(connection: ServerConnection) -> None:
        nonlocal sent
        for _ in range(3):
            await connection.send(push(str(sent), sent))
            sent += 1
        if server.opened <= 100:
            await connection.send(go_away())
        await connection.wait_closed()

    async with websocket_server(script) as server, Client(server.url, sleep=Sleeps()) as client:
        assert await take(client, 303) == list(range(303))
