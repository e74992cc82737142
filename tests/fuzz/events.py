"""Event streams: what the engine writes, the client's parser reads (zpush/_fast/sse.pyx, client/event_parser.py)."""

from __future__ import annotations

import re

from hypothesis import strategies as st

from tests.fuzz.target import CUTS, Target, damaged, pieces
from zpush._fast.sse import encode_event
from zpush.client.event_parser import EventParser, ServerEvent
from zpush.errors import MalformedMessage

MAX_BYTES = 200
LINES = st.lists(
    st.sampled_from(
        [b"data: x", b"data:", b"data", b"event: close", b"id: 7", b"id: a\0b", b":", b"retry: 5", b"", b"\xff"]
    ),
    max_size=6,
)
STREAMS = damaged(
    st.builds(
        lambda lines, end, bom: bom + b"".join(line + end for line in lines),
        LINES,
        st.sampled_from([b"\n", b"\r\n", b"\r"]),
        st.sampled_from([b"", b"\xef\xbb\xbf"]),
    )
)
DATA = damaged(
    st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\r\n", b" ", b"data: x", b"\0", "é".encode()]), max_size=8).map(
        b"".join
    )
)


def check(value: tuple[bytes, tuple[int, ...], bytes, bytes]) -> None:
    """Whole or in pieces: the same events; and what the engine writes comes out, newlines alone made equal."""
    stream, cuts, data, id = value
    assert read(pieces(stream, cuts)) == read([stream])
    written = encode_event(data, b"push", id)
    if len(written) > MAX_BYTES:
        return
    text = re.sub("\r\n|\r", "\n", data.decode(errors="replace"))
    shown = "" if any(byte in id for byte in b"\r\n\0") else id.decode(errors="replace")
    for parts in ([written], pieces(written, cuts)):
        assert read(parts) == [ServerEvent("push", shown, text)]


def read(parts: list[bytes]) -> list[ServerEvent | None]:
    parser = EventParser(MAX_BYTES)
    events: list[ServerEvent | None] = []
    try:
        for part in parts:
            events += parser.feed(part)
    except MalformedMessage:
        events.append(None)
    return events


TARGET = Target("events", st.tuples(STREAMS, CUTS, DATA, DATA), check, 150)
