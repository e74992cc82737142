"""The encoder against two parsers: one written from WHATWG HTML 9.2.6 here, and that of httpx_sse."""

from __future__ import annotations

import time
from typing import NamedTuple

import pytest
from httpx_sse._decoders import SSEDecoder, SSELineDecoder
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zpush._fast.sse import encode_event


class Event(NamedTuple):
    event: str
    data: str
    id: str


def parse(stream: bytes) -> list[Event]:
    """What an EventSource dispatches, by the letter of the specification."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    events, data, name, last_id = [], "", "", ""
    for line in lines[:-1]:
        if line == "":
            if data != "":
                events.append(Event(name or "message", data.removesuffix("\n"), last_id))
            data = name = ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data += value + "\n"
        elif field == "id" and "\0" not in value:
            last_id = value
    assert lines[-1] == "", "an event must end its last line"
    return events


def parse_with_httpx(stream: bytes) -> list[Event]:
    lines, decoder = SSELineDecoder(), SSEDecoder()
    found = [decoder.decode(line) for line in lines.decode(stream.decode("utf-8", "replace"))]
    return [Event(each.event, each.data, each.id) for each in found if each is not None]


def as_dispatched(data: bytes) -> str:
    return data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")


def id_survives(id: bytes | None) -> bool:
    return bool(id) and not any(byte in (id or b"") for byte in b"\r\n\0")


NEWLINES = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b" ", b":", b"\0", "é".encode()]), max_size=30)
DATA = st.one_of(st.binary(max_size=200), NEWLINES.map(b"".join))
IDS = st.one_of(st.none(), st.text(max_size=20).map(str.encode), NEWLINES.map(b"".join))
NAMES = st.sampled_from([None, b"push", b"goaway", b"close"])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(DATA, NAMES, IDS), max_size=5))
@example([(b"", None, None)])
@example([(b"\r\n", b"push", b"1"), (b"\n\r", None, b"2\n"), (b"\r\r\n\n", None, b"")])
def test_parsers_hand_on_what_was_given(events: list[tuple[bytes, bytes | None, bytes | None]]) -> None:
    stream = b"".join(encode_event(*each) for each in events)
    expected, last_id = [], ""
    for data, name, id in events:
        if id_survives(id):
            last_id = (id or b"").decode("utf-8", "replace")
        expected.append(Event(name.decode() if name else "message", as_dispatched(data), last_id))
    assert parse(stream) == expected
    assert parse_with_httpx(stream) == expected


def test_the_bytes_of_a_plain_event() -> None:
    assert encode_event(b"one\ntwo", b"push", b"7") == b"id: 7\nevent: push\ndata: one\ndata: two\n\n"


def test_empty_data_is_one_empty_line() -> None:
    assert encode_event(b"") == b"data: \n\n"


@pytest.mark.parametrize("id", [b"", b"1\n2", b"1\r2", b"1\0", b"\n", b"x\ndata: forged"])
def test_an_id_that_would_forge_or_reset_is_left_out(id: bytes) -> None:
    assert encode_event(b"d", b"push", id) == encode_event(b"d", b"push")


@pytest.mark.parametrize("name", [b"a\nb", b"a\rb", b"a\0b"])
def test_a_name_with_a_newline_is_refused(name: bytes) -> None:
    with pytest.raises(ValueError):
        encode_event(b"d", name)


@pytest.mark.parametrize("newline", [b"\r", b"\n", b"\r\n"])
def test_nothing_but_newlines_takes_linear_time(newline: bytes) -> None:
    """Looking for the other kind of newline again on each line would take minutes here."""
    count = 2_000_000
    started = time.process_time()
    encoded = encode_event(newline * count)
    assert time.process_time() - started < 5
    assert len(encoded) == len(b"data: \n") * (count + 1) + 1
