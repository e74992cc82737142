"""Servers that answer what no zpush answers: the client comes back later, and nothing of it breaks."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

from tests.client.servers import (
    Raw,
    Refuse,
    Sleeps,
    States,
    Stream,
    go_away,
    push,
    says,
    stream_server,
    take,
    websocket_server,
)
from zpush._fast.frames import encode_frame
from zpush.client import Client, Limits, State, Stopped


def text(message: str) -> bytes:
    return encode_frame(1, message.encode())


def close(code: int, reason: bytes = b"") -> bytes:
    return encode_frame(8, struct.pack(">H", code) + reason)


def sends(data: bytes, head: tuple[bytes, bytes] = (b"", b"")) -> Raw:
    """The 101, with a part of it replaced, then this; until the client leaves."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, accepted: bytes) -> None:
        writer.write(accepted.replace(*head) + data)
        await writer.drain()
        await reader.read()

    return Raw(play)


PROTOCOL, EXTENSIONS = b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions: %b\r\nSec-WebSocket-Protocol"
HEADS = {
    "a subprotocol that is not ASCII": (b"zpush.v1", b"zp\xff"),
    "another subprotocol": (b"zpush.v1", b"mqtt"),
    "an extension that nobody asked for": (PROTOCOL, EXTENSIONS % b"x"),
    "an extension that is not ASCII": (PROTOCOL, EXTENSIONS % b"\xff"),
    "an upgrade that is not ASCII": (b"Connection: Upgrade", b"Connection: Upgrade, \xff"),
    "no upgrade": (b"Upgrade: websocket\r\n", b""),
    "early hints": (b"HTTP/1.1 101 Switching Protocols", b"HTTP/1.1 103 Early Hints"),
}


@pytest.mark.parametrize("head", HEADS)
async def test_a_handshake_that_is_none(head: str) -> None:
    sleeps = Sleeps()
    async with (
        stream_server(sends(b"", HEADS[head]), sends(text(push("1", "well")))) as server,
        Client(server.url, limits=Limits(open_s=2.0), sleep=sleeps) as client,
    ):
        assert await take(client, 1) == ["well"]
    assert len(sleeps.asked_s) == 1


FRAMES = {
    "a mask": bytes([0x81, 0x81, 1, 2, 3, 4, 5]),
    "RSV1": b"\xc1\x01x",
    "opcode 3": b"\x83\x00",
    "a lone continuation": b"\x80\x01x",
    "a text that is not UTF-8": encode_frame(1, b"\xff"),
    "a length of 2^63": b"\x81\x7f" + struct.pack(">Q", 1 << 63),
    "a message without end": b"\x01\x01x" + b"\x00\x7f" + struct.pack(">Q", 1 << 40) + b"x" * 300_000,
    "a ping of 126 bytes": b"\x89\x7e\x00\x7e" + b"x" * 126,
    "a close of one byte": b"\x88\x01x",
    "close code 999": close(999),
    "close code 1005": close(1005),
    "a close reason that is not UTF-8": close(4004, b"\xff"),
    "data behind the close": close(1001) + text(push("0", "not this")) + b"\xff" * 5000,
    "no object": text("null"),
    "brackets": text('{"id":"0","data":' + "[" * 100_000),
    "an id that is a number": text('{"id":0,"data":"not this"}'),
    "an id that is half a character": text('{"id":"\\ud800","data":"not this"}'),
    "a go-away that is a list": text('{"go_away":[]}'),
    "a go-away in infinity": text('{"go_away":{"reason":"","reconnect_in_ms":1e999}}'),
    "base64 that is none": text('{"id":"0","base64":"!"}'),
}


@pytest.mark.parametrize("frames", FRAMES)
async def test_frames_that_break_the_rules(frames: str) -> None:
    """What came before them is taken, the connection ends, and the client comes back later."""
    sleeps, states = Sleeps(), States()
    async with (
        stream_server(sends(text(push("1", "before")) + FRAMES[frames]), sends(text(push("2", "after")))) as server,
        Client(server.url, ack=True, sleep=sleeps, limits=Limits(message_bytes=200_000), on_state=states) as client,
    ):
        assert await take(client, 2) == ["before", "after"]
    assert len(sleeps.asked_s) == 1
    assert "closed with 10" in states.details[states.told.index(State.WAITING)]


@pytest.mark.parametrize("delay_ms", ["1" + "0" * 400, "-5", "99999999999"])
async def test_a_go_away_with_an_odd_delay_is_a_go_away(delay_ms: str) -> None:
    odd = go_away().replace(": 0", f": {delay_ms}")
    sleeps = Sleeps()
    async with (
        websocket_server(says(odd), says(push("1", "new"))) as server,
        Client(server.url, sleep=sleeps) as client,
    ):
        assert await take(client, 1) == ["new"]
    assert all(delay_s <= 30 for delay_s in sleeps.asked_s)


async def test_whoever_asks_to_go_at_once_and_always_is_met_ever_more_seldom() -> None:
    sleeps = Sleeps()
    async with (
        websocket_server(*[says(go_away())] * 6, says(go_away(), push("1", "at last"))) as server,
        Client(server.url, sleep=sleeps) as client,
    ):
        assert await take(client, 1) == ["at last"]
    assert len(sleeps.asked_s) >= 5, "only the first time at once"


@pytest.mark.parametrize("id", [" x", "x ", "\tx", "\x7f", "ü\u2028", "x" * 20_000, "😀", "a: b"])
async def test_an_id_that_no_header_can_hold_does_not_end_a_stream(id: str) -> None:
    async def first(stream: Stream) -> None:
        await stream.event("push", "one", id)

    async def second(stream: Stream) -> None:
        await stream.event("push", "two", "2")
        await stream.gone()

    async with (
        stream_server(first, second) as server,
        Client(server.url, transport="sse", sleep=Sleeps()) as client,
    ):
        assert (await anext(client)).id == id
        assert await take(client, 1) == ["two"]


ANSWERS = {
    "a redirect": Refuse(302, {"Location": "http://127.0.0.1:1/"}),
    "Retry-After that is no number": Refuse(503, {"Retry-After": "\u00b2"}),
    "a body that is deep": Refuse(503, body="[" * 100_000),
    "a body that is not text": Refuse(503, body="\x1b[2J\0\ud800"),
}


@pytest.mark.parametrize("transport", ["websocket", "sse"])
@pytest.mark.parametrize("answer", ANSWERS)
async def test_refusals_in_odd_forms(transport: Any, answer: str) -> None:
    sleeps = Sleeps()
    async with (
        stream_server(ANSWERS[answer], Refuse(404)) as server,
        Client(server.url, transport=transport, sleep=sleeps) as client,
    ):
        with pytest.raises(Stopped, match="404"):
            await take(client, 1)
    assert len(sleeps.asked_s) == 1


async def test_a_stream_in_odd_forms() -> None:
    """Each is read as far as it goes, and opened again."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\n"
    odd = [
        head + b"Content-Length: 16\r\n\r\nid: 1\ndata: 1\n\nid: 0\ndata: 0\n\n",
        head + b"Transfer-Encoding: chunked\r\n\r\n10\r\nid: 2\ndata: 2\n\n0\r\nzz\r\n",
        head + b"Transfer-Encoding: chunked\r\n\r\n10\r\nid: 3\ndata: 3\n\n0\r\nffffffffffffffffffffff\r\n",
        head + b"\r\nid: 4\rdata: 4\r\revent: close\rdata: \xef\xbc\x94005\r\r",
        head + b"\r\n\xef\xbb\xbfid: 5\ndata: 5\n\nevent: close\ndata: 9999\n\nid: 0\ndata: 0\n\n",
    ]
    async with (
        stream_server(*odd, b"HTTP/1.1 204 No Content\r\n\r\n") as server,
        Client(server.url, transport="sse", sleep=Sleeps()) as client,
    ):
        assert await take(client, 5) == ["1", "2", "3", "4", "5"]
        with pytest.raises(Stopped, match="204"):
            await take(client, 1)
