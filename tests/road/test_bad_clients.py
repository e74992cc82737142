"""Broken and hostile clients against a whole server. Each gets its answer, and nobody else notices.

What a head or a frame means is tested byte by byte in tests/protocol and tests/_fast; here the same input meets two
real workers. `around` holds two settled clients, who are served while the bad one is there, and after it the workers
are as they were: the same processes, descriptors and memory.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.protocol.heads import head, upgrade
from tests.road.api import Api
from tests.road.bystanders import Bystanders
from tests.road.crowd import upgrade as ask
from tests.road.raw import Raw, frame
from tests.road.server import Serve, Server
from tests.support import eventually

SETTINGS = (
    "connections.handshake_timeout=2s",
    "connections.keepalive=2s",  # raw clients do not pong: each has four seconds for what it does
    "connections.pong_timeout=2s",
    "connections.unsent_bytes=64KiB",
    "connections.inbound_fragments=1000",
)
WS = "/ws?client=bad"
HERE = {"Host": "127.0.0.1"}
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


@pytest.fixture
async def around(server: Server, api: Api) -> AsyncIterator[Bystanders]:
    async with Bystanders(server, api) as bystanders:
        yield bystanders
        await bystanders.unharmed()


# ---- before it is open

VALID = upgrade(WS, Host="127.0.0.1")
KEY_LINE = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
REFUSED = {
    "a head of 100 KiB": (head(WS, {**HERE, "X": "x" * 102_400}), 431),
    "a path of 100 KiB": (head("/" + "x" * 102_400, HERE), 431),
    "10,000 headers": (head(WS, [*HERE.items(), *((f"X-{n}", "x") for n in range(10_000))]), 431),
    "an endless line": (b"G" * 50_000, 431),
    "NUL in the path": (VALID.replace(b"/ws", b"/w\0s"), 400),
    "two Upgrade headers": (VALID.replace(KEY_LINE, KEY_LINE + b"Upgrade: websocket\r\n"), 400),
    "two Sec-WebSocket-Keys": (VALID.replace(KEY_LINE, KEY_LINE * 2), 400),
    "HTTP/1.0": (VALID.replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
    "obs-fold": (VALID.replace(KEY_LINE, b"X: a\r\n b\r\n" + KEY_LINE), 400),
    "a body on the GET": (upgrade(WS, Host="127.0.0.1", Content_Length="5") + b"hello", 400),
    "a chunked body on the GET": (upgrade(WS, Host="127.0.0.1", Transfer_Encoding="chunked") + b"0\r\n\r\n", 400),
    "Content-Length twice": (VALID.replace(KEY_LINE, KEY_LINE + b"Content-Length: 0\r\n" * 2), 400),
    "version 8": (upgrade(WS, Host="127.0.0.1", Sec_WebSocket_Version="8"), 426),
    "no version": (upgrade(WS, Host="127.0.0.1", Sec_WebSocket_Version=None), 426),
    "no upgrade at all": (head(WS, HERE), 426),
    "another path": (upgrade("/wss?client=bad", Host="127.0.0.1"), 404),
    "POST": (VALID.replace(b"GET", b"POST"), 405),
    "a foreign Origin": (upgrade(WS, Host="127.0.0.1", Origin="https://evil.example"), 400),
    "a foreign Host": (upgrade(WS), 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "nobody's name": (upgrade("/ws", Host="127.0.0.1"), 401),
    "an id with a newline": (upgrade("/ws?client=a%0Ab", Host="127.0.0.1"), 400),
    "an id with NUL": (upgrade("/ws?client=a%00b", Host="127.0.0.1"), 400),
    "an id with DEL": (upgrade("/ws?client=a%7Fb", Host="127.0.0.1"), 400),
    "an id of 256 bytes": (upgrade("/ws?client=" + "a" * 256, Host="127.0.0.1"), 400),
    "an id of 5 kB": (upgrade("/ws?client=" + "a" * 5000, Host="127.0.0.1"), 400),
    "an id that is not UTF-8": (upgrade("/ws?client=%FF", Host="127.0.0.1"), 400),
    "a user with a newline": (upgrade("/ws?client=a&user=b%0A", Host="127.0.0.1"), 400),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_bad_handshakes_are_refused(server: Server, around: Bystanders, name: str) -> None:
    request, status = REFUSED[name]
    bad = await Raw.connect(server.clients)
    await bad.send(request)
    answer = await bad.rest()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"\r\n\r\n") == 1, "whatever came behind it is not a second request"
    await bad.close()


@pytest.mark.parametrize(
    "client_id",
    ["\N{PILE OF POO}", "a:b", "{a}:reader", "zpush:lease:x", "1 2 3", "a b", "*", "a,b", "%2F/?#&=", "é" * 127],
)
async def test_ids_may_hold_whatever_the_registry_separates_with(
    server: Server, api: Api, around: Bystanders, client_id: str
) -> None:
    client = await Raw.open(server, ask(client_id))
    assert await api.direct(client_id, "it is you") == "delivered"
    assert await client.take(11) == b"\x81\x09it is you"
    await client.close()


async def test_half_a_handshake_then_silence(server: Server, api: Api, around: Bystanders) -> None:
    before = (await api.metrics()).total("zpush_handshakes_total", result="timeout")
    silent = [await Raw.connect(server.clients) for _ in range(20)]
    for client in silent[:10]:
        await client.send(VALID[:-2])
    await around.served()
    assert [await client.rest() for client in silent] == [b""] * 20, "half a request has no answer"
    await api.until_counted("zpush_handshakes_total", before + 20, result="timeout")


async def test_a_byte_now_and_then_moves_no_deadline(server: Server, around: Bystanders) -> None:
    slow = await Raw.connect(server.clients)
    ended = asyncio.create_task(slow.rest())
    for number in range(len(VALID) - 1):
        await slow.send(VALID[number : number + 1])
        done, _ = await asyncio.wait([ended], timeout=0.1)
        if done:
            break
        if number == 5:
            await around.served()
    else:
        raise AssertionError("each byte gave it more time")
    assert await ended == b""


async def test_what_comes_behind_the_upgrade_is_read_as_frames(server: Server, around: Bystanders) -> None:
    client = await Raw.connect(server.clients)
    await client.send(VALID + frame(PING, b"early") + frame(TEXT, b"hello"))
    assert (await client.head()).startswith(b"HTTP/1.1 101 ")
    assert await client.take(7) == b"\x8a\x05early"
    await client.send(frame(CLOSE, b"\x03\xe8"))
    assert await client.rest() == b"\x88\x02\x03\xe8"


# ---- frames

PIZZA = "🍕".encode()
FRAMES = {
    "unmasked": (b"\x81\x05hello", 1002),
    "a length of 2^63": (b"\x82\xff\x80" + bytes(7) + b"\0\0\0\0", 1002),
    "a length of 2^62": (b"\x82\xff\x40" + bytes(7) + b"\0\0\0\0", 1009),
    "a message of 64 KiB and a byte": (frame(BINARY, bytes(65_537)), 1009),
    "the same in two frames": (frame(BINARY, bytes(65_536), fin=False) + frame(0, b"x"), 1009),
    "a length longer than needed": (b"\x81\xfe\x00\x01\0\0\0\0x", 1002),
    "a control frame of 126 bytes": (frame(PING, bytes(126)), 1002),
    "a fragmented ping": (frame(PING, b"", fin=False), 1002),
    "a lone continuation": (frame(0, b"x"), 1002),
    "a message in a message": (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
    "opcode 3": (frame(3), 1002),
    "RSV1": (b"\xc1\x80\0\0\0\0", 1002),
    "close code 1005 on the wire": (frame(CLOSE, b"\x03\xed"), 1002),
    "close code 999": (frame(CLOSE, b"\x03\xe7"), 1002),
    "close with one byte": (frame(CLOSE, b"\x03"), 1002),
    "close with a reason that is not UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "invalid UTF-8": (frame(TEXT, b"\xff"), 1007),
    "invalid UTF-8 over three frames": (
        frame(TEXT, PIZZA[:1], fin=False) + frame(0, PIZZA[1:2], fin=False) + frame(0, b"\x41"),
        1007,
    ),
    "a character cut off by the end": (frame(TEXT, PIZZA[:3]), 1007),
    "bytes that are no frames": (b"GET / HTTP/1.1\r\n\r\n", 1002),
    "fragments of one byte without end": (frame(BINARY, b"x", fin=False) + frame(0, b"x", fin=False) * 1100, 1009),
    "empty fragments without end": (frame(TEXT, b"", fin=False) + frame(0, b"", fin=False) * 1100, 1009),
}


@pytest.mark.parametrize("name", FRAMES)
async def test_bad_frames_are_closed_with_their_code(server: Server, around: Bystanders, name: str) -> None:
    data, code = FRAMES[name]
    bad = await Raw.open(server, VALID)
    await bad.send(data)
    found, reason = await bad.closed()
    assert found == code
    assert reason, "a developer reads it"
    await bad.close()


CONTROL = {
    "an ack that is a number": (b'{"ack":1}', 1003),
    "an ack with a newline": (b'{"ack":"a\\nb"}', 1003),
    "two things at once": (b'{"ack":"a","ping":1}', 1003),
    "a ping of 10 kB": (b'{"ping":"%b"}' % (b"x" * 10_000), 1003),
    "a token that is an object": (b'{"auth":{}}', 1003),
    "a token of 64 KiB": (b'{"auth":"%b"}' % (b"a" * 65_000), 1003),
}
V1 = ask("bad", b"Sec-WebSocket-Protocol: zpush.v1")


@pytest.mark.parametrize("name", CONTROL)
async def test_bad_control_messages_are_closed_with_a_reason(server: Server, around: Bystanders, name: str) -> None:
    said, code = CONTROL[name]
    bad = await Raw.open(server, V1)
    await bad.send(frame(TEXT, said))
    found, reason = await bad.closed()
    assert found == code
    assert reason, "a developer reads it"
    await bad.close()


async def test_what_is_no_control_message_is_data_and_ignored(server: Server, around: Bystanders) -> None:
    client = await Raw.open(server, V1)
    for said in (b'{"ack":', b'{"auth":' + b"[" * 60_000, b"[" * 60_000, b'{"other":1}', b"null", b""):
        await client.send(frame(TEXT, said))
    await client.send(frame(PING, b"still here"))
    assert await client.take(12) == b"\x8a\x0astill here"
    await client.close()


# ---- floods, and clients that do not read

FLOOD = frame(PING, b"x" * 125) * 500  # 65 kB


async def test_a_ping_flood_without_a_limit_is_answered_at_the_clients_own_pace(
    server: Server, api: Api, around: Bystanders
) -> None:
    """It does not read its pongs: the server does not read its pings."""
    flooder = await Raw.open(server, VALID, receive_bytes=4096)
    sent = 0
    try:
        async with asyncio.timeout(1):
            while True:
                await flooder.send(FLOOD)
                sent += 500
    except TimeoutError:
        pass
    assert sent * 131 < 16 << 20, "it would have gone on for ever"
    await around.served()
    assert (await api.metrics()).total("zpush_unsent_bytes") < 1 << 20
    flooder.reset()


async def test_a_ping_flood_with_a_limit_is_ended(serve: Serve) -> None:
    server = serve(*SETTINGS, "connections.inbound_messages=20")
    async with Api(server.api) as api, Bystanders(server, api) as around:
        flooder = await Raw.open(server, VALID)
        await flooder.send(FLOOD)
        for _ in range(20):
            assert await flooder.frame() == (PONG, b"x" * 125)
        assert (await flooder.closed())[0] == 4008
        await flooder.close()
        await around.unharmed()
        assert (await api.metrics()).total("zpush_inbound_limited_total") == 1


@pytest.mark.parametrize("request_", [VALID, ask("bad", path=b"/sse")], ids=["websocket", "event stream"])
async def test_a_client_that_never_reads(server: Server, api: Api, around: Bystanders, request_: bytes) -> None:
    stuck = await Raw.open(server, request_, receive_bytes=4096)
    before = await api.metrics()
    push = json.dumps({"to": {"client": "bad"}, "text": "x" * 4000})
    status, answers = await api.batch([push] * 400)
    assert status == 200
    assert all(answer["queued"] for answer in answers)
    await around.served()
    closed = before.total("zpush_closes_total", code="4004") + 1
    await api.until_counted("zpush_closes_total", closed, code="4004")
    await around.served()
    counted = before.total("zpush_messages_total") + 400 + 4  # twice served, two clients
    metrics = await api.until_counted("zpush_messages_total", counted)
    assert metrics.total("zpush_messages_total", outcome="dropped") > before.total(
        "zpush_messages_total", outcome="dropped"
    )
    await stuck.close()


async def test_a_client_that_never_pongs(server: Server, api: Api, around: Bystanders) -> None:
    before = (await api.metrics()).total("zpush_closes_total", code="1006")
    deaf = await Raw.open(server, VALID)
    await around.served()
    assert await deaf.rest() == b"\x89\x00", "one ping, and the end"
    await api.until_counted("zpush_closes_total", before + 1, code="1006")


# ---- RST

Step = Callable[[Server, Api], Awaitable[Raw]]


def after(data: bytes, request: bytes = VALID) -> Step:
    """Open, then these bytes."""

    async def step(server: Server, api: Api) -> Raw:
        raw = await Raw.open(server, request)
        await raw.send(data)
        return raw

    return step


def before(data: bytes) -> Step:
    """These bytes on a new connection."""

    async def step(server: Server, api: Api) -> Raw:
        raw = await Raw.connect(server.clients)
        if data:
            await raw.send(data)
        return raw

    return step


async def amid_the_closing_handshake(server: Server, api: Api) -> Raw:
    raw = await Raw.open(server, VALID)
    assert (await api.http.delete("/v1/clients/bad")).status_code == 200
    return raw


async def amid_an_answer(server: Server, api: Api) -> Raw:
    raw = await Raw.connect(server.clients)
    await raw.send(upgrade("/nowhere", Host="127.0.0.1"))
    await raw.head()
    return raw


RESETS: dict[str, Step] = {
    "at once": before(b""),
    "amid the head": before(VALID[:30]),
    "behind the head": before(VALID),
    "behind the head and more": before(VALID + frame(TEXT, b"hello")),
    "behind a refused head": before(b"nonsense\r\n\r\n"),
    "amid an answer": amid_an_answer,
    "open": after(b""),
    "amid a frame's header": after(b"\x82\xfe\x10"),
    "amid a payload": after(frame(BINARY, bytes(5000))[:4000]),
    "between fragments": after(frame(TEXT, b"half", fin=False)),
    "amid a ping": after(frame(PING, bytes(100))[:50]),
    "behind a bad frame": after(b"\x81\x05hello"),
    "behind a close frame": after(frame(CLOSE, b"\x03\xe8")),
    "amid our closing handshake": amid_the_closing_handshake,
    "an event stream": after(b"", ask("bad", path=b"/sse")),
}


@pytest.mark.parametrize("state", RESETS)
async def test_rst_in_every_state(server: Server, api: Api, around: Bystanders, state: str) -> None:
    for _ in range(5):
        client = await RESETS[state](server, api)
        client.reset()
    await around.served()

    async def offline() -> bool:
        return await api.direct("bad", "gone?") == "offline"

    await eventually(offline, "who is gone is offline")


async def test_rst_with_unsent_bytes_settles_them(server: Server, around: Bystanders) -> None:
    client = await Raw.open(server, VALID, receive_bytes=4096)
    async with Api(server.api) as waiting:
        push = asyncio.create_task(waiting.direct("bad", "x" * 60_000))
        await client.take(1000)  # some of it is here
        await around.served()
        assert not push.done(), "the kernel took it all"
        client.reset()
        assert await push == "dropped"
