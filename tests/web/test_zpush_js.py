"""zpush.js in Node obeys the rules that zpush.Client obeys, against the same servers."""

from __future__ import annotations

import asyncio
import json
import subprocess
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from tests.client.servers import Refuse, Server, Stream, go_away, push, says, stream_server, websocket_server
from tests.client.test_ends import TRANSPORTS, Transport, server_of
from tests.client.test_odd_servers import FRAMES, sends, text
from tests.support import eventually
from tests.web.node import DRIVER, Page, node, page
from zpush.protocol.close import CLOSE_CODES, Next, after_close

BACK_OFF_MS = {Next.BACKOFF: 500, Next.LONG_BACKOFF: 10_000}


def offered(server: Server, connection: int) -> list[str]:
    return [each.strip() for each in server.seen[connection]["sec-websocket-protocol"].split(",")]


def test_the_table_is_the_servers() -> None:
    done = subprocess.run([*node(), DRIVER, "table"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {str(code): row.then.name.lower() for code, row in CLOSE_CODES.items()}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("code", [*CLOSE_CODES, 4999])
async def test_every_row_of_the_table(transport: Transport, code: int) -> None:
    then = after_close(code)
    async with (
        server_of(transport, code, "back") as server,
        page(server.url, transport=transport, tokens=["t1", "t2"], random=1) as client,
    ):
        if then is Next.NEVER:
            assert await client.until(stopped="Stopped") == {"stopped": "Stopped", "code": code}
            assert client.states == ["connecting", "open", "stopped"]
        elif then in BACK_OFF_MS:
            assert (await client.until(state="waiting"))["delayMs"] == BACK_OFF_MS[then]
        else:
            assert await client.take(1) == ["back"]
            assert "waiting" not in client.states
        asked = [told["asked"] for told in client.told if "asked" in told]
    assert asked == (["t1", "t2"] if then is Next.TOKEN_FIRST else ["t1"])


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_fixed_token_that_is_not_wanted_any_more_stops(transport: Transport) -> None:
    async with server_of(transport, 4006) as server, page(server.url, transport=transport, token="fixed") as client:
        assert (await client.until(stopped="Stopped"))["code"] == 4006
    assert server.opened == 1


async def test_where_the_token_is() -> None:
    async with server_of("websocket", "in") as server, page(server.url, token="a.b-c", clientId="c/ü") as client:
        await client.take(1)
    assert offered(server, 0) == ["zpush.v1", "zpush.token.a.b-c"]
    assert server.paths == ["/ws?client=c%2F%C3%BC"]
    async with server_of("sse", "in") as server, page(server.url, transport="sse", token="a.b-c") as client:
        await client.take(1)
    assert server.paths == ["/sse?token=a.b-c"]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_every_refusal_is_followed_by_a_new_token(transport: Transport) -> None:
    async with (
        server_of(transport, Refuse(401), Refuse(503), "in") as server,
        page(server.url, transport=transport, tokens=["t1", "t2", "fails", "t3"]) as client,
    ):
        assert await client.take(1) == ["in"]
        asked = [told["asked"] for told in client.told if "asked" in told]
    assert (asked, server.opened) == (["t1", "t2", "fails", "t3"], 3)


async def test_a_callback_that_has_no_token_stops() -> None:
    async with page("ws://127.0.0.1:1", tokens=[None]) as client:
        assert await client.until(stopped="Stopped") == {"stopped": "Stopped", "code": 0}


async def test_v1_messages_as_they_were_sent() -> None:
    script = says(
        push("1", {"a": [1]}), push("2", "ü"), '{"id":"3","base64":"AP8="}', '{"later":1}', push("2", "double")
    )
    async with websocket_server(script) as server, page(server.url) as client:
        messages = [await client.until(id=id) for id in ("1", "2", "3")]
        await client.close()
        assert await client.until(stopped=None) == {"stopped": None, "code": 0}
    assert [m["data"] for m in messages] == [{"a": [1]}, "ü", {"bytes": [0, 255]}]
    assert (messages[0]["text"], messages[1]["size"]) == ('{"a":[1]}', 2)
    assert not [told for told in client.told if told.get("data") == "double"]
    assert client.states == ["connecting", "open", "stopped"]


async def test_raw_messages_have_no_id() -> None:
    async with (
        websocket_server(says("plain", b"\x00\xff", "plain")) as server,
        page(server.url, protocol="zpush.raw") as client,
    ):
        assert await client.take(3) == ["plain", {"bytes": [0, 255]}, "plain"]


async def test_event_stream_messages() -> None:
    async def script(stream: Stream) -> None:
        await stream.send("retry: 3000\n\n:\n\n")
        await stream.send("id: 1\nevent: push\ndata: two\ndata: lines\n\n")
        await stream.event("binary", "AP8=", "2")
        await stream.event("push", "double", "2")
        await stream.event("push", "x", "3")
        await stream.gone()

    async with stream_server(script) as server, page(server.url, transport="sse") as client:
        assert await client.take(3) == ["two\nlines", {"bytes": [0, 255]}, "x"]


def noting(acks: list[str], *ids: str) -> Any:
    """A script: sends messages with these ids, and notes what is acknowledged."""

    async def script(connection: ServerConnection) -> None:
        for id in ids:
            await connection.send(push(id, id))
        async for message in connection:
            acks.append(json.loads(message)["ack"])

    return script


async def test_acks_also_of_doubles() -> None:
    acks: list[str] = []
    async with websocket_server(noting(acks, "1", "2", "1")) as server, page(server.url, ack=True) as client:
        assert await client.take(2) == ["1", "2"]
        await eventually(lambda: sorted(acks) == ["1", "1", "2"], "three acks")


async def test_what_a_callback_threw_at_is_not_acknowledged() -> None:
    acks: list[str] = []
    async with (
        websocket_server(noting(acks, "1", "2", "1")) as server,
        page(server.url, ack=True, throwing=True) as client,
    ):
        assert await client.take(2) == ["1", "2"]
        await client.say("ack")
        await eventually(lambda: acks == ["2"], "the page's own word for the last one")


async def test_what_a_callback_promised_is_acknowledged_when_it_is_done() -> None:
    acks: list[str] = []
    async with (
        websocket_server(noting(acks, "1", "2")) as server,
        page(server.url, ack=True, promising=True) as client,
    ):
        assert await client.take(2) == ["1", "2"]
        await client.say("ack")
        await eventually(lambda: acks == ["2"], "the page's own word for the last one")
        await client.say("done")
        await eventually(lambda: acks == ["2", "1", "2"], "both")


async def test_a_silent_server_is_asked_and_one_that_answers_is_kept() -> None:
    pings = 0

    async def script(connection: ServerConnection) -> None:
        nonlocal pings
        async for message in connection:
            pings += 1
            await connection.send(json.dumps({"pong": json.loads(message)["ping"]}))

    async with websocket_server(script) as server, page(server.url, pingMs=20) as client:
        await client.until(state="open")
        await eventually(lambda: pings >= 3, "three pings")
    assert server.opened == 1


async def test_what_is_not_zpush_v1_ends_the_connection() -> None:
    codes: list[int | None] = []

    async def script(connection: ServerConnection) -> None:
        await connection.send("{not json")
        await connection.wait_closed()
        codes.append(connection.close_code)

    async with websocket_server(script) as server, page(server.url, random=1) as client:
        assert (await client.until(state="waiting"))["delayMs"] == 10_000
        await eventually(lambda: codes == [3000], "the close frame")


@pytest.mark.parametrize("protocol", ["zpush.v1", "zpush.raw"])
async def test_the_new_one_is_open_before_the_old_one_ends(protocol: str) -> None:
    """The server closes the replaced one; what both say meanwhile arrives in order."""
    new_is_open = asyncio.Event()
    v1 = protocol == "zpush.v1"

    async def old(connection: ServerConnection) -> None:
        await connection.send(push("1", "before") if v1 else "before")
        await connection.send(go_away() if v1 else "_CLOSE_")
        await connection.send(push("2", "between") if v1 else "between")
        await new_is_open.wait()
        await connection.send(push("3", "late") if v1 else "late")
        await connection.close(4002)

    async def new(connection: ServerConnection) -> None:
        await connection.send(push("4", "new") if v1 else "new")
        new_is_open.set()
        await connection.wait_closed()

    async with websocket_server(old, new) as server, page(server.url, protocol=protocol) as client:
        assert await client.take(4) == ["before", "between", "late", "new"]
        assert client.states == ["connecting", "open", "handing_over", "open"]


async def test_an_event_stream_is_read_to_its_end() -> None:
    new_is_open = asyncio.Event()

    async def old(stream: Stream) -> None:
        await stream.event("goaway", "_CLOSE_")
        await new_is_open.wait()
        await stream.event("push", "late", "1")
        await stream.close(4002)

    async def new(stream: Stream) -> None:
        await stream.event("push", "late", "1")
        await stream.event("push", "new", "2")
        new_is_open.set()
        await stream.gone()

    async with stream_server(old, new) as server, page(server.url, transport="sse") as client:
        assert await client.take(2) == ["late", "new"]


async def test_an_old_one_that_does_not_end_is_left_behind() -> None:
    async with (
        websocket_server(says(go_away()), says(push("1", "new"))) as server,
        page(server.url, handoverMs=50) as client,
    ):
        assert await client.take(1) == ["new"]


async def test_4002_and_a_new_one_that_fails_is_tried_again() -> None:
    async def old(connection: ServerConnection) -> None:
        await connection.send(go_away())
        await server.has_seen(2)
        await connection.close(4002)

    async with websocket_server(old, Refuse(500), says(push("1", "new"))) as server, page(server.url) as client:
        assert await client.take(1) == ["new"]


async def test_4002_before_the_new_one_was_asked_for_is_another_client() -> None:
    async with websocket_server(says(go_away(20_000), code=4002)) as server, page(server.url) as client:
        assert (await client.until(stopped="Stopped"))["code"] == 4002
    assert server.opened == 1


async def test_an_operator_stops_a_hand_over() -> None:
    async def old(connection: ServerConnection) -> None:
        await connection.send(go_away())
        await server.has_seen(2)
        await connection.close(4005)

    async with (
        websocket_server(old, Refuse(503), says(push("1", "never"))) as server,
        page(server.url, random=1) as client,
    ):
        assert (await client.until(stopped="Stopped"))["code"] == 4005


async def test_the_old_one_ends_before_the_new_one_is_open() -> None:
    ended = asyncio.Event()

    async def old(connection: ServerConnection) -> None:
        await connection.send(go_away())
        await server.has_seen(2)
        await connection.close(1000)
        ended.set()

    async with (
        websocket_server(old, Refuse(503), says(push("1", "new"))) as server,
        page(server.url, random=0.2) as client,
    ):
        assert await client.take(1) == ["new"]
    assert client.states[:4] == ["connecting", "open", "handing_over", "connecting"]
    assert client.states[-1] == "open"


@pytest.mark.parametrize(("reason", "tokens"), [("max_age", ["t1"]), ("something_later", ["t1", "t2"])])
async def test_a_new_token_where_the_old_one_ends(reason: str, tokens: list[str]) -> None:
    async with (
        websocket_server(says(go_away(0, reason)), says(push("1", "new"))) as server,
        page(server.url, tokens=["t1", "t2"], handoverMs=50) as client,
    ):
        assert await client.take(1) == ["new"]
        assert [told["asked"] for told in client.told if "asked" in told] == tokens


@pytest.mark.parametrize("answer", ["taken", "nothing", "refused"])
async def test_a_newer_token_is_shown_on_the_open_connection(answer: str) -> None:
    shown: list[Any] = []

    async def script(connection: ServerConnection) -> None:
        await connection.send(go_away(50, "token_expires"))
        shown.append(json.loads(await connection.recv()))
        if answer == "refused":
            await connection.close(1008)
        if answer == "taken":
            await connection.send('{"authenticated":true}')
            await asyncio.sleep(2)  # longer than the client waits for the server's word
        await connection.send(push("1", "on the old one"))
        await connection.wait_closed()

    async with (
        websocket_server(script, says(push("2", "on the new one"))) as server,
        page(server.url, tokens=["t1", "t2", "t3"], handoverMs=50) as client,
    ):
        got = await client.take(1 if answer != "nothing" else 2)
        asked = [told["asked"] for told in client.told if "asked" in told]
    assert shown == [{"auth": "t2"}]
    if answer == "taken":
        assert (got, server.opened, asked) == (["on the old one"], 1, ["t1", "t2"])
        assert client.states == ["connecting", "open"]
    elif answer == "nothing":
        assert (got, asked) == (["on the old one", "on the new one"], ["t1", "t2"])
        assert client.states == ["connecting", "open", "handing_over", "open"]
        assert next(told["delayMs"] for told in client.told if told.get("state") == "handing_over") == 0
        assert offered(server, 1) == ["zpush.v1", "zpush.token.t2"]
    else:
        assert (got, asked) == (["on the new one"], ["t1", "t2", "t3"])


@pytest.mark.parametrize("code", [1000, 1008])
async def test_a_token_that_is_being_fetched_is_not_asked_for_again(code: int) -> None:
    """The connection ends meanwhile; what then comes is shown on the next one."""
    over = asyncio.Event()

    async def old(connection: ServerConnection) -> None:
        await connection.send(go_away(0, "token_expires"))
        await over.wait()
        await connection.close(code)

    async with (
        websocket_server(old, says(push("1", "new"))) as server,
        page(server.url, tokens=["t1", "waits", "t3"]) as client,
    ):
        await client.until(asked="waits")
        over.set()
        await client.until(state="connecting")
        await client.say("token:t2")
        assert await client.take(1) == ["new"]
    assert [told["asked"] for told in client.told if "asked" in told] == ["t1", "waits"]
    assert offered(server, 1) == ["zpush.v1", "zpush.token.t2"]


async def no_listeners(client: Page) -> None:
    async def none() -> bool:
        await client.say("listeners")
        told = await client.line()
        return told == {"listeners": 0}

    await eventually(none, "nothing waits for an abort any more")


async def test_attempts_that_fail_leave_no_listener() -> None:
    async with (
        websocket_server(*[Refuse(503)] * 20, says(push("1", "in"))) as server,
        page(server.url, tokens=[f"t{n}" for n in range(21)], random=1e-5) as client,
    ):
        assert await client.take(1) == ["in"]
        await no_listeners(client)


async def test_tokens_that_are_renewed_leave_no_listener() -> None:
    async def script(connection: ServerConnection) -> None:
        for number in range(5):
            await connection.send(go_away(0, "token_expires"))
            assert json.loads(await connection.recv()) == {"auth": f"t{number + 2}"}
            await connection.send('{"authenticated":true}')
        await connection.send(push("1", "after"))
        await connection.wait_closed()

    async with websocket_server(script) as server, page(server.url, tokens=[f"t{n + 1}" for n in range(6)]) as client:
        assert await client.take(1) == ["after"]
        await no_listeners(client)
    assert server.opened == 1


@pytest.mark.parametrize("protocol", ["zpush.v1", "zpush.raw"])
async def test_the_secure_token_comes_first(protocol: str) -> None:
    message = push("1", "x") if protocol == "zpush.v1" else '{"secure_token":"a_payload"}'
    script = says('{"secure_token":"aB3_-"}', message)
    async with websocket_server(script) as server, page(server.url, protocol=protocol, secure=True) as client:
        await client.until(secure="aB3_-")
        assert await client.take(1) == ["x" if protocol == "zpush.v1" else message]
    assert server.paths == ["/ws?secure_token=1"]
    async with websocket_server(script) as server, page(server.url, protocol="zpush.raw") as client:
        assert await client.take(1) == ['{"secure_token":"aB3_-"}']
    assert server.paths == ["/ws"]


async def test_a_secure_token_on_an_event_stream() -> None:
    async def script(stream: Stream) -> None:
        await stream.event("secure_token", "aB3_-")
        await stream.event("push", "x", "1")
        await stream.gone()

    async with stream_server(script) as server, page(server.url, transport="sse", secure=True) as client:
        await client.until(secure="aB3_-")
        assert await client.take(1) == ["x"]
    assert server.paths == ["/sse?secure_token=1"]


NOT_V1 = ["no object", "brackets", "an id that is a number", "a go-away that is a list", "base64 that is none"]


@pytest.mark.parametrize("message", NOT_V1)
async def test_messages_that_are_no_zpush_v1(message: str) -> None:
    """What came before them is taken, the connection ends, and the client comes back much later."""
    first, second = sends(text(push("1", "before")) + FRAMES[message]), sends(text(push("2", "after")))
    async with stream_server(first, second) as server, page(server.url, ack=True, random=0.001) as client:
        assert await client.take(2) == ["before", "after"]
    [waited] = [told for told in client.told if told.get("state") == "waiting"]
    assert (waited["delayMs"], waited["reason"][:30]) == (10, "closed with 1002: not zpush.v1")
    assert "handing_over" not in client.states


async def test_whoever_asks_to_go_at_once_and_always_is_met_ever_more_seldom() -> None:
    async with websocket_server(says(go_away())) as server, page(server.url, random=0.01, handoverMs=20) as client:
        delays = [(await client.until(state="handing_over"))["delayMs"] for _ in range(4)]
    assert delays == [0, 10, 20, 40]


async def test_closing_while_the_token_callback_hangs() -> None:
    async with page("ws://127.0.0.1:1", tokens=["hangs"]) as client:
        await client.until(asked="hangs")
        await client.close()
        assert await client.until(stopped=None) == {"stopped": None, "code": 0}


async def test_closing_while_it_waits_and_while_it_connects() -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with page("ws://127.0.0.1:1", random=1) as client:
        await client.until(state="waiting")
        await client.close()
        assert await client.until(stopped=None) == {"stopped": None, "code": 0}
    listener = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with page(f"ws://127.0.0.1:{port}") as client:
        await client.until(state="connecting")
        await client.close()
        assert await client.until(stopped=None) == {"stopped": None, "code": 0}
    listener.close()


async def test_a_server_that_never_answers_is_given_up() -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    for transport in TRANSPORTS:
        async with page(f"ws://127.0.0.1:{port}", transport=transport, openMs=50, random=1) as client:
            await client.until(state="waiting")
    listener.close()


@pytest.mark.parametrize("options", [{"url": "ftp://h"}, {"url": "nonsense"}, {"url": "ws://h", "token": "a b"}])
async def test_what_cannot_be_used(options: dict[str, Any]) -> None:
    async with page(**options) as client:
        assert (await client.line())["thrown"] == "TypeError"
