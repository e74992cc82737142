"""One connection after the other over WebSocket: messages in both protocols, ends, acks, pings, broken servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame, Opcode

from tests.client.servers import Sleeps, States, push, says, stay, take, websocket_server
from tests.store.certificate import self_signed
from tests.support import eventually
from zpush.client import Client, Limits, Received, State, Stopped


async def test_v1_messages_as_they_were_sent() -> None:
    script = says(push("1", {"a": [1, 2**80]}), push("2", "text"), '{"id":"3","base64":"AP8="}')
    async with websocket_server(script) as server, Client(server.url, client_id="c 1/ü") as client:
        first, second, third = [await anext(client) for _ in range(3)]
    assert (first.id, first.data, first.text) == ("1", {"a": [1, 2**80]}, '{"a":[1,1208925819614629174706176]}')
    assert (second.data, second.text, second.bytes) == ("text", "text", b"text")
    assert (third.data, third.bytes) == (b"\x00\xff", b"\x00\xff")
    assert server.paths == ["/ws?client=c%201%2F%C3%BC"]
    assert server.seen[0]["sec-websocket-protocol"] == "zpush.v1"


async def test_raw_messages_have_no_id() -> None:
    async with (
        websocket_server(says("plain", b"\x00\xff", '{"id":1}')) as server,
        Client(server.url, protocol="zpush.raw") as client,
    ):
        messages = [await anext(client) for _ in range(3)]
    assert [(m.id, m.data) for m in messages] == [("", "plain"), ("", b"\x00\xff"), ("", '{"id":1}')]
    assert messages[2].json() == {"id": 1}


async def test_a_message_in_many_frames() -> None:
    async def script(connection: ServerConnection) -> None:
        await connection.send(['{"id":"1",', '"data":"ü', "€", '"}'])
        await connection.send([b"a", b"b"])
        await connection.wait_closed()

    async with websocket_server(script) as server, Client(server.url, protocol="zpush.raw") as client:
        assert await take(client, 2) == ['{"id":"1","data":"ü€"}', b"ab"]


async def test_a_path_of_ones_own_and_a_token() -> None:
    async with (
        websocket_server(says(push("1", 1))) as server,
        Client(server.url + "/behind/proxy?a=b", client_id="c", token="T0.k-en") as client,
    ):
        await take(client, 1)
    assert server.paths == ["/behind/proxy?a=b&client=c"]
    assert server.seen[0]["authorization"] == "Bearer T0.k-en"


async def test_acks_say_what_was_dealt_with_and_no_more() -> None:
    """Who asks for the next message has dealt with the one before."""
    acks: list[str] = []

    async def script(connection: ServerConnection) -> None:
        for i in range(3):
            await connection.send(push(str(i), i))
        async for message in connection:
            acks.append(json.loads(message)["ack"])
            if acks == ["0", "1"]:
                await connection.send(push("0", "double"))  # said once more
                await connection.send(push("2", "double"))  # not said yet
                await connection.send(push("3", 3))

    async with websocket_server(script) as server, Client(server.url, ack=True) as client:
        assert await take(client, 3) == [0, 1, 2]
        await eventually(lambda: acks == ["0", "1", "0"], "three acks")
        assert await take(client, 1) == [3]
        await eventually(lambda: acks == ["0", "1", "0", "2"], "four acks")


async def test_a_program_may_say_itself_what_it_dealt_with() -> None:
    acks: list[str] = []

    async def script(connection: ServerConnection) -> None:
        for i in range(3):
            await connection.send(push(str(i), i))
        async for message in connection:
            acks.append(json.loads(message)["ack"])

    async with websocket_server(script) as server, Client(server.url) as client:
        messages = [await anext(client) for _ in range(3)]
        client.ack(messages[2])
        client.ack(messages[0])
        await eventually(lambda: acks == ["2", "0"], "both acks")
    client.ack(messages[1])  # nobody hears it, and nothing happens


async def test_a_callback_that_fails_has_dealt_with_nothing() -> None:
    heard: list[str | bytes] = []

    async def script(connection: ServerConnection) -> None:
        await connection.send(push("1", 1))
        async for message in connection:
            heard.append(message)

    async def on_message(message: object) -> None:
        raise RuntimeError("it did not work out")

    async with websocket_server(script) as server:
        client = Client(server.url, ack=True, on_message=on_message)
        await client.start()
        with pytest.raises(RuntimeError):
            await client.wait_stopped()
        await eventually(lambda: server.held() == 0, "the end")
    assert heard == []


async def test_pings_are_answered_and_a_double_is_dropped() -> None:
    async def script(connection: ServerConnection) -> None:
        await connection.send(push("1", "first"))
        await (await connection.ping(b"there?"))
        await connection.send(push("1", "first"))
        await connection.send(push("2", "second"))
        await connection.wait_closed()

    async with websocket_server(script) as server, Client(server.url) as client:
        assert await take(client, 2) == ["first", "second"]


async def test_a_double_on_the_next_connection_is_dropped_but_acked() -> None:
    acks: list[str] = []

    async def again(connection: ServerConnection) -> None:
        await connection.send(push("1", "first"))
        await connection.send(push("2", "second"))
        async for message in connection:
            acks.append(json.loads(message)["ack"])

    async with (
        websocket_server(says(push("1", "first"), code=1001), again) as server,
        Client(server.url, ack=True, sleep=Sleeps()) as client,
    ):
        assert await take(client, 1) == ["first"]
        client.ack(Received("1", "first"))  # on a connection that has gone, or is not there yet
        assert await take(client, 1) == ["second"]
        await eventually(lambda: acks == ["1"], "the double's ack")


async def test_what_is_not_zpush_v1_is_a_protocol_error() -> None:
    codes: list[int | None] = []

    async def script(connection: ServerConnection) -> None:
        await connection.send("{not json")
        await connection.wait_closed()
        codes.append(connection.close_code)

    sleeps = Sleeps()
    async with websocket_server(script, says(push("1", 1))) as server, Client(server.url, sleep=sleeps) as client:
        assert await take(client, 1) == [1]
    assert codes == [1002]
    assert len(sleeps.asked_s) == 1


async def test_unknown_kinds_are_ignored() -> None:
    async with (
        websocket_server(says('{"later":1}', '{"pong":1}', push("1", 1))) as server,
        Client(server.url) as client,
    ):
        assert await take(client, 1) == [1]


async def test_a_message_that_is_too_big_ends_the_connection() -> None:
    codes: list[int | None] = []

    async def script(connection: ServerConnection) -> None:
        await connection.send(push("0", "x" * 100))
        await connection.send(["y" * 600, "y" * 600])
        await connection.wait_closed()
        codes.append(connection.close_code)

    async with (
        websocket_server(script, says(push("1", 1))) as server,
        Client(server.url, limits=Limits(message_bytes=1000), sleep=Sleeps()) as client,
    ):
        assert await take(client, 2) == ["x" * 100, 1]
    assert codes == [1009]


async def test_a_full_inbox_stops_reading_and_loses_nothing() -> None:
    sent = 0

    async def script(connection: ServerConnection) -> None:
        nonlocal sent
        for i in range(400):
            await connection.send(push(str(i), "x" * 50_000))
            sent += 1
        await connection.close(4005)

    async with (
        websocket_server(script) as server,
        Client(server.url, limits=Limits(queued=3)) as client,
    ):
        await client.wait_open()
        counts = [-1]

        def blocked() -> bool:
            counts.append(sent)
            return len(counts) > 20 and len(set(counts[-20:])) == 1

        await eventually(blocked, "a server that cannot send")
        assert 0 < sent < 400
        ids = []
        with pytest.raises(Stopped):
            async for message in client:
                ids.append(message.id)
    assert ids == [str(i) for i in range(400)]


async def test_a_silent_server_is_pinged_then_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server process that is stopped: its kernel still takes what we send."""
    monkeypatch.setattr("zpush.client.websocket.PONG_S", 0.1)
    resume = asyncio.Event()

    async def deaf(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await resume.wait()
        connection.transport.resume_reading()

    states, limits = States(), Limits(silence_s=0.1)
    async with websocket_server(deaf, says(push("1", 1))) as server:
        async with Client(server.url, limits=limits, on_state=states, sleep=Sleeps()) as client:
            assert await take(client, 1) == [1]
        resume.set()
    assert states.told[:5] == [State.CONNECTING, State.OPEN, State.WAITING, State.CONNECTING, State.OPEN]


async def test_a_quiet_server_that_answers_pings_is_kept() -> None:
    pings = 0

    async def script(connection: ServerConnection) -> None:
        process = connection.process_event

        def count(frame: Frame) -> None:
            nonlocal pings
            pings += frame.opcode is Opcode.PING
            process(frame)

        connection.process_event = count  # type: ignore[method-assign]
        await connection.wait_closed()

    async with (
        websocket_server(script) as server,
        Client(server.url, limits=Limits(silence_s=0.02)) as client,
    ):
        await eventually(lambda: pings >= 5, "five pings")
        assert client.state is State.OPEN
    assert server.opened == 1


async def test_closing_is_polite() -> None:
    codes: list[int | None] = []

    async def script(connection: ServerConnection) -> None:
        await stay(connection)
        codes.append(connection.close_code)

    states = States()
    async with websocket_server(script) as server:
        async with Client(server.url, on_state=states) as client:
            await client.wait_open()
        await eventually(lambda: codes == [1000], "the close frame")
        with pytest.raises(StopAsyncIteration):
            await anext(client)
        await client.aclose()
    assert states.told == [State.CONNECTING, State.OPEN, State.STOPPED]


async def test_who_waits_for_a_client_that_is_closed_is_told() -> None:
    client = Client("ws://127.0.0.1:1", sleep=lambda _: asyncio.Event().wait())  # type: ignore[arg-type, return-value]
    waits = asyncio.create_task(client.wait_open())
    await eventually(lambda: client.state is State.WAITING, "it has tried")
    await client.aclose()
    with pytest.raises(Stopped, match="closed"):
        await waits


async def test_the_servers_close_frame_is_answered() -> None:
    answers: list[int] = []

    async def script(connection: ServerConnection) -> None:
        await connection.close(4004)
        assert connection.protocol.close_rcvd is not None, "the client has cut the line instead"
        answers.append(connection.protocol.close_rcvd.code)

    async with (
        websocket_server(script, says(push("1", 1))) as server,
        Client(server.url, sleep=Sleeps()) as client,
    ):
        await take(client, 1)
    assert answers == [4004]


async def test_a_callback_instead_of_iterating() -> None:
    taken: list[object] = []
    acks: list[str] = []

    async def on_message(message: object) -> None:
        await asyncio.sleep(0)
        taken.append(message)

    async def script(connection: ServerConnection) -> None:
        await connection.send(push("1", 1))
        await connection.send(push("2", 2))
        async for message in connection:
            acks.append(json.loads(message)["ack"])
            if len(acks) == 2:
                await connection.close(4005)

    async with (
        websocket_server(script) as server,
        Client(server.url, on_message=on_message, ack=True) as client,
    ):
        with pytest.raises(Stopped):
            await client.wait_stopped()
    assert [m.data for m in taken] == [1, 2]  # type: ignore[attr-defined]
    assert acks == ["1", "2"]


async def test_what_a_callback_raises_ends_the_client() -> None:
    def on_message(message: object) -> None:
        raise RuntimeError("a bug of the caller's")

    async with websocket_server(says(push("1", 1))) as server:
        client = Client(server.url, on_message=on_message)
        await client.start()
        with pytest.raises(RuntimeError, match="caller's"):
            await anext(client)
        with pytest.raises(RuntimeError, match="caller's"):
            await client.aclose()


async def test_a_callback_may_close_the_client() -> None:
    closed = asyncio.Event()

    async def on_message(message: object) -> None:
        closed.set()
        await client.aclose()

    async with websocket_server(says(push("1", 1))) as server:
        client = Client(server.url, on_message=on_message)
        await client.start()
        async with asyncio.timeout(30):
            await closed.wait()
            with pytest.raises(StopAsyncIteration):
                await anext(client)
        assert client.state is State.STOPPED


@pytest.mark.parametrize("url", ["ftp://h", "ws://", "h:80", "ws://u:p@h/", "ws://a..b/", "ws://h:99999"])
def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ValueError):
        Client(url)


def test_arguments_that_cannot_be_used() -> None:
    with pytest.raises(ValueError, match="token"):
        Client("ws://h", token="a\r\nEvil: 1")
    with pytest.raises(ValueError, match="transport"):
        Client("ws://h", transport="carrier-pigeon")  # type: ignore[arg-type]
    with pytest.raises(Exception, match="control character"):
        Client("ws://h", client_id="a\nb")


async def test_an_address_that_leads_nowhere_does_not_hide_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """As IPv6 does where the network is broken: what is sent there is never answered."""
    monkeypatch.setattr("zpush.client.wire.ADDRESS_S", 0.1)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as nowhere, contextlib.ExitStack() as stack:
        for _ in range(2):  # its queue is full then, and more SYNs are dropped
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(nowhere.getsockname())
        async with websocket_server(says(push("1", 1))) as server:
            port = int(server.url.rpartition(":")[2])

            async def addresses(*_: object, **__: object) -> list[Any]:
                stream = socket.AF_INET, socket.SOCK_STREAM, 0, ""
                return [(*stream, nowhere.getsockname()), (*stream, ("127.0.0.1", port))]

            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", addresses)
            async with Client("ws://push.example.com") as client:
                assert await take(client, 1) == [1]


async def test_tls(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "localhost")
    there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    there.load_cert_chain(certificate, key)
    here = ssl.create_default_context(cafile=str(certificate))
    states = States()
    async with websocket_server(says(push("1", 1)), ssl_context=there) as server:
        url = server.url.replace("ws://127.0.0.1", "wss://localhost")
        async with Client(url, ssl_context=here) as client:
            assert await take(client, 1) == [1]
        async with Client(url, on_state=states):
            await states.reached(State.WAITING)
    assert "certificate" in states.details[1]
