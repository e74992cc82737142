"""One connection after the other over event streams; and the parser, alone and against httpx-sse's."""

from __future__ import annotations

import asyncio

import pytest
from httpx_sse._decoders import SSEDecoder, SSELineDecoder
from hypothesis import given
from hypothesis import strategies as st

from tests.client.servers import Sleeps, States, Stream, stream_server, take
from zpush.client import Client, Limits, State
from zpush.client.event_parser import EventParser
from zpush.errors import MalformedMessage


@pytest.mark.parametrize("chunked", [False, True])
async def test_messages_as_they_were_sent(chunked: bool) -> None:
    async def script(stream: Stream) -> None:
        await stream.send("retry: 3000\n\n:\n\n")
        await stream.send("id: 1\nevent: push\ndata: two\ndata: lines\u2028 and more\n\n")
        await stream.event("binary", "AP8=", "2")
        await stream.event("later", "unknown")
        await stream.event("push", '{"a":1}', "3")
        await stream.gone()

    async with (
        stream_server(script, chunked=chunked) as server,
        Client(server.url, client_id="c", transport="sse", token="t") as client,
    ):
        messages = [await anext(client) for _ in range(3)]
    assert [(m.id, m.data) for m in messages] == [
        ("1", "two\nlines\u2028 and more"), ("2", b"\x00\xff"), ("3", '{"a":1}')
    ]  # fmt: skip
    assert messages[2].json() == {"a": 1}
    assert server.paths == ["/sse?client=c"]
    assert server.seen[0]["accept"] == "text/event-stream"
    assert server.seen[0]["authorization"] == "Bearer t"


async def test_a_stream_that_breaks_off_is_opened_again() -> None:
    """Half an event is none."""

    async def breaks(stream: Stream) -> None:
        await stream.event("push", "whole", "1")
        await stream.send("event: push\ndata: half")

    async def goes_on(stream: Stream) -> None:
        await stream.event("push", "next", "2")
        await stream.gone()

    for chunked in (False, True):
        states = States()
        async with stream_server(breaks, goes_on, chunked=chunked) as server:
            client = Client(server.url, transport="sse", sleep=Sleeps(), on_state=states)
            async with client:
                assert await take(client, 2) == ["whole", "next"]
        assert states.told[:3] == [State.CONNECTING, State.OPEN, State.WAITING]


async def test_a_silent_stream_is_left() -> None:
    async def silent(stream: Stream) -> None:
        await stream.send(":\n\n")
        await stream.gone()

    async def speaks(stream: Stream) -> None:
        await stream.event("push", "x", "1")
        await stream.gone()

    async with stream_server(silent, speaks) as server:
        limits = Limits(silence_s=0.1)
        async with Client(server.url, transport="sse", sleep=Sleeps(), limits=limits) as client:
            assert await take(client, 1) == ["x"]


async def test_comments_keep_a_stream() -> None:
    states = States()

    async def comments(stream: Stream) -> None:
        for _ in range(30):
            await asyncio.sleep(0.05)  # far less than silence_s, and all together more
            await stream.send(":\n\n")
        await stream.event("push", "x", "1")
        await stream.gone()

    async with stream_server(comments) as server:
        client = Client(server.url, transport="sse", limits=Limits(silence_s=1.2), on_state=states, sleep=Sleeps())
        async with client:
            assert await take(client, 1) == ["x"]
    assert server.opened == 1


async def test_an_event_that_is_too_long_comes_after_those_before_it() -> None:
    async def script(stream: Stream) -> None:
        await stream.send("id: 1\ndata: a\n\ndata: " + "x" * 2000 + "\n\n")
        await stream.gone()

    async def again(stream: Stream) -> None:
        await stream.event("push", "b", "2")
        await stream.gone()

    async with stream_server(script, again) as server:
        client = Client(server.url, transport="sse", limits=Limits(message_bytes=1000), sleep=Sleeps())
        async with client:
            assert await take(client, 2) == ["a", "b"]


async def test_a_binary_event_that_is_not_base64_is_a_protocol_error() -> None:
    async def script(stream: Stream) -> None:
        await stream.event("binary", "not base64!", "1")
        await stream.gone()

    async def again(stream: Stream) -> None:
        await stream.event("binary", "AA==", "2")
        await stream.gone()

    async with (
        stream_server(script, again) as server,
        Client(server.url, transport="sse", sleep=Sleeps()) as client,
    ):
        assert await take(client, 1) == [b"\x00"]


def events(data: bytes, cuts: list[int]) -> list[tuple[str, str, str]]:
    parser, found, begin = EventParser(1 << 20), [], 0
    for end in [*sorted(cuts), len(data)]:
        found += [tuple(event) for event in parser.feed(data[begin:end])]
        begin = end
    return found


LINES = st.sampled_from(["data: a", "data:b", "data", "data:  c", "id: 7", "id: \0", "event: x", "event", ": comment",
                         "retry: 5", "other: z", "", "", "data: \u2028\x0b\x85", "data:ü:€"])  # fmt: skip
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


def read_by_httpx(text: str) -> list[tuple[str, str, str]]:
    """What httpx-sse's decoders make of it: name and data of events with data; the id from the event's own lines."""
    lines, decoder, found = SSELineDecoder(), SSEDecoder(), []
    id, has_data = "", False
    for line in lines.decode(text) + lines.flush():
        event = decoder.decode(line)
        if not line:
            if event is not None and has_data:
                found.append((event.event, id, event.data))
            id, has_data = "", False
        field, _, value = line.partition(":")
        has_data |= field == "data"
        if field == "id" and "\0" not in value:
            id = value.removeprefix(" ")
    return found


@given(st.lists(st.tuples(LINES, ENDS), min_size=1, max_size=20), st.lists(st.integers(0, 200), max_size=6))
def test_the_parser_agrees_with_another_at_every_cut(lines: list[tuple[str, str]], cuts: list[int]) -> None:
    text = "".join(line + end for line, end in lines)
    data = text.encode()
    assert events(data, [min(cut, len(data)) for cut in cuts]) == read_by_httpx(text)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_every_cut_of_every_newline(newline: str) -> None:
    data = newline.join(["id: 1", "data: a", "data: b", "", "data: c", "", ""]).encode()
    for cut in range(len(data)):
        assert events(data, [cut]) == [("message", "1", "a\nb"), ("message", "", "c")]


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert events(b"\xef\xbb\xbfdata: a\n\n", [1, 2]) == [("message", "", "a")]


@pytest.mark.parametrize("data", [b"data: " + b"x" * 101, b"data: xxxx\n" * 30, b"x" * 50 + b"\n" + b"y" * 60])
def test_the_bound_holds_for_lines_and_events(data: bytes) -> None:
    parser = EventParser(100)
    with pytest.raises(MalformedMessage):
        for i in range(0, len(data), 7):
            list(parser.feed(data[i : i + 7]))
