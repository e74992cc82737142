"""The request head's parser, held against the grammar of RFC 9112 written as patterns, and against llhttp."""

from __future__ import annotations

import re

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protocol.heads import UPGRADE, head
from zpush._fast.head import parameter, parse

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
LINE = re.compile(rb"(GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH) ([!\"$-~]+) HTTP/1\.([01])")
FIELD = re.compile(rb"(%b):[ \t]*([\t -~\x80-\xff]*)" % TOKEN)
SINGLE = {
    b"host", b"upgrade", b"origin", b"authorization", b"content-length", b"last-event-id", b"sec-websocket-key",
    b"sec-websocket-version", b"sec-fetch-site",
}  # fmt: skip
WHOLE = head("/ws?client=a&b", {**UPGRADE, "X": "", "Cookie": "a=1; b=\xe9"})

Parts = tuple[str, str, bytes, bool, dict[bytes, bytes]]


def by_grammar(data: bytes) -> Parts | None:
    """The same, slowly; None where it is malformed."""
    *lines, blank, end = data.split(b"\r\n") if b"\r\n" in data else [b"", b"x", b"x"]
    line = LINE.fullmatch(lines[0]) if lines else None
    fields = [FIELD.fullmatch(each) for each in lines[1:]]
    if blank or end or line is None:
        return None
    found: dict[bytes, bytes] = {}
    for field in fields:
        if field is None:
            return None
        name, value = field[1].lower(), field[2].strip(b" \t")
        if name in found and name in SINGLE:
            return None
        found[name] = found[name] + (b"; " if name == b"cookie" else b", ") + value if name in found else value
    path, _, query = line[2].partition(b"?")
    return line[1].decode(), path.decode(), query, line[3] == b"1", found


def parsed(data: bytes) -> Parts | None:
    try:
        return parse(data)
    except ValueError:
        return None


def test_the_parts_of_a_head() -> None:
    assert parse(b"GET /ws?a=b?c HTTP/1.0\r\nHOST:h\r\nX-y: \t a b \t\r\nx-Y: c\r\nE:\r\n\r\n") == (
        "GET",
        "/ws",
        b"a=b?c",
        False,
        {b"host": b"h", b"x-y": b"a b, c", b"e": b""},
    )
    assert parse(b"OPTIONS * HTTP/1.1\r\n\r\n") == ("OPTIONS", "*", b"", True, {})


def test_every_byte_at_every_place() -> None:
    """Replaced, and put in between."""
    assert parsed(WHOLE) == by_grammar(WHOLE) is not None
    for at in range(len(WHOLE)):
        for byte in range(256):
            for rest in (at, at + 1):
                data = WHOLE[:at] + bytes([byte]) + WHOLE[rest:]
                assert parsed(data) == by_grammar(data), data


def test_every_piece_of_a_head() -> None:
    for begin in range(len(WHOLE)):
        for end in (b"", b"\r\n\r\n"):
            assert parsed(WHOLE[:begin] + end) == by_grammar(WHOLE[:begin] + end)
            assert parsed(WHOLE[begin:] + end) == by_grammar(WHOLE[begin:] + end)


PIECES = st.one_of(
    st.binary(max_size=3),
    st.sampled_from(
        [b"GET ", b"/ws", b" HTTP/1.1", b"\r\n", b"\r\n\r\n", b"Host: h", b"Cookie: a", b"x:", b": ", b" "]
    ),
)


@settings(max_examples=500)
@given(st.lists(PIECES, max_size=12), st.booleans())
def test_any_bytes(pieces: list[bytes], begun: bool) -> None:
    data = b"".join([b"GET /ws HTTP/1.1\r\n" if begun else b"", *pieces, b"\r\n\r\n"])
    assert parsed(data) == by_grammar(data)


@pytest.mark.parametrize("name", sorted(SINGLE))
def test_what_may_come_once(name: bytes) -> None:
    data = b"GET / HTTP/1.1\r\n%b: a\r\n%b: a\r\n\r\n"
    assert parsed(data % (name, b"x-" + name)) is not None
    with pytest.raises(ValueError, match=name.decode()):
        parse(data % (name, name.upper()))


class Seen:
    def __init__(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))


@given(
    st.from_regex(rb"/[!\"$-~]{0,20}", fullmatch=True),
    st.lists(st.from_regex(rb"X-%b:[ \t]*[\t -~\x80-\xff]{0,20}" % TOKEN, fullmatch=True), max_size=5),
)
def test_llhttp_reads_it_the_same_way(target: bytes, lines: list[bytes]) -> None:
    data = b"\r\n".join([b"GET %b HTTP/1.1" % target, *lines, b"", b""])
    seen = Seen()
    httptools.HttpRequestParser(seen).feed_data(data)
    method, path, query, http11, fields = parse(data)
    assert (method, http11) == ("GET", True)
    assert path.encode() + (b"?" + query if b"?" in seen.target else b"") == seen.target
    assert {name for name, _ in seen.fields} == set(fields)
    for name, value in fields.items():
        assert value == b", ".join(each for known, each in seen.fields if known == name)


@pytest.mark.parametrize(
    ("query", "value"),
    [
        (b"", None),
        (b"client", None),
        (b"client=", b""),
        (b"client=a", b"a"),
        (b"&&client=a=b&", b"a=b"),
        (b"clients=a&xclient=b&=c", None),
        (b"x=client=a", None),
        (b"x&client=%00", b"%00"),
    ],
)
def test_parameters(query: bytes, value: bytes | None) -> None:
    assert parameter(query, b"client") == value


def test_a_parameter_that_comes_twice() -> None:
    with pytest.raises(ValueError, match="client more than once"):
        parameter(b"client=a&x&client=a", b"client")
