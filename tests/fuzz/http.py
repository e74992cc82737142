"""Requests on the API port, whole and in pieces (zpush/server/http_parser.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.target import CUTS, Target, damaged, pieces
from zpush.server.http_heads import KnownHeads
from zpush.server.http_message import HttpRequest, HttpResponse, Route, encode, error_response
from zpush.server.http_parser import BodyBudget, HttpLimits, RequestReader

LIMITS = HttpLimits(head_bytes=256, head_fields=8)
BODY_BYTES = 64
BUDGET_BYTES = 100

LINES = st.sampled_from(
    [
        b"POST / HTTP/1.1",
        b"POST /small HTTP/1.1",
        b"GET /c?q HTTP/1.1",
        b"GET /closed HTTP/1.0",
        b"POST /closed HTTP/1.1",
    ]
    + [
        b"HEAD http://h/x HTTP/1.1",
        b"CONNECT h:1 HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET / HTTP/2.0",
        b"PRI * HTTP/2.0",
    ]
)
FIELDS = st.sampled_from(
    [b"Host: h", b"Connection: close", b"Connection: keep-alive, Upgrade", b"Upgrade: h2c", b"HTTP2-Settings: AAMA"]
    + [b"Expect: 100-continue", b"Expect: more", b"Content-Length: 3", b"Content-Length: 65", b"Content-Length: 0"]
    + [b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: Chunked", b"Host: g"]
    + [b"X: " + b"y" * 100, b"Content-Length: 99999999999999999999", b"Trailer: t", b"X:y", b"Content-Type: a/b"]
)
CHUNKS = st.lists(
    st.sampled_from([b"1\r\nx\r\n", b"3;e=1\r\nxyz\r\n", b"0a\r\n0123456789\r\n", b"40\r\n" + b"x" * 64 + b"\r\n"]),
    max_size=3,
).map(lambda chunks: b"".join(chunks) + b"0\r\n\r\n")
BODIES = st.one_of(st.just(b""), st.just(b"abc"), CHUNKS, st.just(b"0\r\nT: x\r\n\r\n"), st.binary(max_size=8))
REQUESTS = st.builds(
    lambda line, fields, body: b"\r\n".join([line, b"Host: t", *fields]) + b"\r\n\r\n" + body,
    LINES,
    st.lists(FIELDS, max_size=3),
    BODIES,
)
STREAMS = damaged(st.lists(REQUESTS, max_size=3).map(b"".join))


@dataclass
class Reading:
    """What one way of feeding the bytes came to."""

    requests: list[tuple[Any, ...]] = field(default_factory=list)
    refusal: int = 0
    closing: bool = False


def route(request: HttpRequest) -> Route | HttpResponse:
    if request.path.startswith("/closed"):
        return error_response(401, "unauthorized", "closed")
    return Route(lambda _: HttpResponse(200), 8 if request.path == "/small" else 1 << 20)


def read(parts: list[bytes], heads: KnownHeads) -> Reading:
    budget = BodyBudget(BUDGET_BYTES)
    reader = RequestReader(route, BODY_BYTES, LIMITS, budget, heads)
    reading = Reading()
    for part in parts:
        reader.feed(part)
        assert 0 <= budget.held_bytes <= BUDGET_BYTES
        while reader.ready:  # as the server does: answered, then given back
            request, _ = reader.ready.popleft()
            assert len(request.body) <= BODY_BYTES
            reading.requests.append((request.method, request.path, request.query, request.headers, request.body))
            assert encode(HttpResponse(200), b"", request, request.keep_alive).count(b"\r\n\r\n") == 1
            reader.release(request)
    reading.refusal = reader.refusal.status if reader.refusal is not None else 0
    reading.closing = reader.closing
    reader.close()
    assert budget.held_bytes == 0, "body bytes were kept"
    return reading


def check(value: tuple[bytes, tuple[int, ...]]) -> None:
    """Whole or in pieces, for the first time or again: the same requests and refusal; every body byte is given back."""
    stream, cuts = value
    heads = KnownHeads()
    whole, parted = read([stream], heads), read(pieces(stream, cuts), heads)
    assert whole == read([stream], heads) == read([stream], KnownHeads())
    if {whole.refusal, parted.refusal} & {431, 503}:  # bounds on what one read brings: only how far it came may differ
        shorter, longer = sorted((whole.requests, parted.requests), key=len)
        assert longer[: len(shorter)] == shorter
    else:
        assert parted == whole


TARGET = Target("http", st.tuples(STREAMS, CUTS), check, 200)
