"""The HTTP server on real sockets: what senders do, what broken and hostile ones do."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.server.raw_http import CLOSE, RawClient, connected, serving
from tests.support import eventually
from zpush.server.http import HttpServer
from zpush.server.http_heads import KnownHeads
from zpush.server.http_message import HttpRequest, HttpResponse, Route, error_response
from zpush.server.http_parser import BodyBudget, HttpLimits, RequestReader

LIMIT_BYTES = 1000
QUICK = HttpLimits(head_s=1, body_s=1, idle_s=1, unread_s=1, linger_s=1)
POST = b"POST / HTTP/1.1\r\nHost: t\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


class Site:
    """/ answers what it was asked, /wait when the test lets it; /large is 1 MiB; /closed refuses on the head."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.waiting = 0
        self.seen: list[str] = []

    def route(self, request: HttpRequest) -> Route | HttpResponse:
        match request.path:
            case "/wait":
                return Route(self.wait, LIMIT_BYTES)
            case "/large":
                return Route(lambda _: HttpResponse(200, bytes(1 << 20)))
            case "/closed":
                return error_response(401, "unauthorized", "closed")
            case "/broken":
                return Route(self.broken)
            case "/broken-later":
                return Route(self.broken_later)
        return Route(self.echo, LIMIT_BYTES)

    def echo(self, request: HttpRequest) -> HttpResponse:
        self.seen.append(request.path)
        return HttpResponse(200, f"{request.method} {request.path} ".encode() + request.body)

    async def wait(self, request: HttpRequest) -> HttpResponse:
        self.waiting += 1
        await self.gate.wait()
        return HttpResponse(200, b"waited " + request.body)

    def broken(self, request: HttpRequest) -> HttpResponse:
        raise KeyError("a defect")

    async def broken_later(self, request: HttpRequest) -> HttpResponse:
        raise KeyError("a defect")


@pytest.fixture
async def site() -> Site:
    return Site()


@pytest.fixture
async def server(site: Site) -> AsyncIterator[tuple[HttpServer, int]]:
    async with serving(site.route, QUICK) as pair:
        yield pair


@pytest.fixture
async def client(server: tuple[HttpServer, int]) -> AsyncIterator[RawClient]:
    async with connected(server[1]) as client:
        yield client


# ---- what senders do


async def test_keep_alive_and_pipelining_in_order(client: RawClient, site: Site) -> None:
    client.send(b"GET /wait HTTP/1.1\r\nHost: t\r\n\r\n" + POST + b"Content-Length: 2\r\n\r\nhi")
    client.send(b"GET /c?q=1 HTTP/1.1\r\nHost: t\r\n\r\n")
    await eventually(lambda: site.waiting)
    assert site.seen == []  # one request in work at a time
    site.gate.set()
    assert [(await client.answer()).body for _ in range(3)] == [b"waited ", b"POST / hi", b"GET /c "]


async def test_a_thousand_pipelined_requests_are_all_answered(client: RawClient) -> None:
    client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n" * 1000)
    for _ in range(1000):
        assert (await client.answer()).status == 200


async def test_requests_split_at_every_byte(server: tuple[HttpServer, int]) -> None:
    whole = POST + b"Content-Length: 2\r\n\r\nhi" + CHUNKED + b"1\r\nx\r\n2;ext=1\r\nyz\r\n0\r\nTrailer: t\r\n\r\n"
    for at in range(1, len(whole)):
        async with connected(server[1]) as client:
            client.send(whole[:at])
            await asyncio.sleep(0)
            client.send(whole[at:])
            assert [(await client.answer()).body for _ in range(2)] == [b"POST / hi", b"POST / xyz"]


async def test_a_sender_that_shuts_its_side_down_gets_its_answer(client: RawClient, site: Site) -> None:
    client.send(b"GET /wait HTTP/1.1\r\nHost: t\r\n\r\n")
    client.writer.write_eof()
    await eventually(lambda: site.waiting)
    site.gate.set()
    assert (await client.answer()).body == b"waited "
    assert await client.ended() == b""


async def test_head_has_no_body_and_says_its_length(client: RawClient) -> None:
    client.send(b"HEAD /x HTTP/1.1\r\n" + CLOSE + b"\r\n")
    answer = await client.answer(head_only=True)
    assert answer.headers["content-length"] == str(len("HEAD /x "))
    assert answer.headers["connection"] == "close"
    assert "GMT" in answer.headers["date"]
    assert await client.ended() == b""


async def test_http_1_0(server: tuple[HttpServer, int]) -> None:
    async with connected(server[1]) as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await client.answer()).status == 200
        assert await client.ended() == b""
    async with connected(server[1]) as client:
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2)
        assert [(await client.answer()).headers["connection"] for _ in range(2)] == ["keep-alive"] * 2


async def test_expect_continue(client: RawClient) -> None:
    client.send(POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert (await client.answer()).status == 100
    client.send(b"hi")
    assert (await client.answer()).body == b"POST / hi"


async def test_a_refused_expectation_spares_the_body(client: RawClient) -> None:
    client.send(POST + b"Expect: 100-continue\r\nContent-Length: 5000\r\n\r\n")
    assert (await client.answer()).status == 413


@pytest.mark.parametrize(
    "body", [b"Content-Length: 2\r\n\r\nhi", b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("cut", [0, 1, 30])
async def test_an_offer_of_h2c_is_ignored_and_the_body_read(client: RawClient, body: bytes, cut: int) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    whole = POST + offer + body + b"GET /next HTTP/1.1\r\n" + CLOSE + b"\r\n"
    client.send(whole[: len(whole) - cut])
    await asyncio.sleep(0)
    client.send(whole[len(whole) - cut :])
    assert (await client.answer()).body == b"POST / hi"
    assert (await client.answer()).body == b"GET /next "


async def test_absolute_form_and_asterisk(client: RawClient) -> None:
    client.send(b"GET http://t/a/b?c=d HTTP/1.1\r\nHost: t\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n")
    assert [(await client.answer()).body for _ in range(2)] == [b"GET /a/b ", b"OPTIONS * "]


async def test_httpx_and_a_body_in_chunks(server: tuple[HttpServer, int]) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield b"x" * 100

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server[1]}") as http:
        assert (await http.post("/p", content=parts())).content == b"POST /p " + b"x" * 900
        assert (await http.post("/p", content=b"x" * 1001)).status_code == 413
        assert (await http.get("/p")).status_code == 200


# ---- what must be refused

MALFORMED = {
    "content-length twice": (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab", 400),
    "content-length differs": (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc", 400),
    "content-length list": (POST + b"Content-Length: 2, 2\r\n\r\nab", 400),
    "content-length sign": (POST + b"Content-Length: +2\r\n\r\nab", 400),
    "content-length overflow": (POST + b"Content-Length: 99999999999999999999\r\n\r\nab", 400),
    "length and chunked": (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", 400),
    "unknown coding": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "two codings": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "coding twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "space before colon": (POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked in 1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "bare LF": (b"GET / HTTP/1.1\nHost: t\n\n", 400),
    "bare CR": (b"GET / HTTP/1.1\r\nHost: t\rX: y\r\n\r\n", 400),
    "obs-fold": (b"GET / HTTP/1.1\r\nHost: t\r\nX: y\r\n z\r\n\r\n", 400),
    "NUL in path": (b"GET /a\0b HTTP/1.1\r\nHost: t\r\n\r\n", 400),
    "NUL in a value": (b"GET / HTTP/1.1\r\nHost: t\r\nX: a\0b\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: t\r\nHost: u\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "negative chunk": (CHUNKED + b"-2\r\nab\r\n", 400),
    "chunk overflow": (CHUNKED + b"fffffffffffffffff\r\nab\r\n", 400),
    "chunk without CRLF": (CHUNKED + b"2\r\nabXX0\r\n\r\n", 400),
    "newline in a chunk extension": (CHUNKED + b"2;a\nb\r\nab\r\n", 400),
    "connect": (b"CONNECT t:1 HTTP/1.1\r\nHost: t\r\n\r\n", 405),
    "http/0.9": (b"GET /\r\n\r\n", 505),
    "http/2.0": (b"GET / HTTP/2.0\r\nHost: t\r\n\r\n", 505),
    "h2 with prior knowledge": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "unknown method": (b"FOO / HTTP/1.1\r\nHost: t\r\n\r\n", 400),
    "unknown expectation": (POST + b"Expect: magic\r\nContent-Length: 2\r\n\r\nab", 417),
    "not http target": (b"GET ftp://t/ HTTP/1.1\r\nHost: t\r\n\r\n", 400),
    "10,000 headers": (b"GET / HTTP/1.1\r\nHost: t\r\n" + b"a: b\r\n" * 10_000, 431),
    "65 headers": (b"GET / HTTP/1.1\r\nHost: t\r\n" + b"a: b\r\n" * 64 + b"\r\n", 431),
    "large head": (b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"y" * 8192 + b"\r\n\r\n", 431),
    "head of 100 KiB": (b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"y" * 102_400, 431),
    "endless path": (b"GET /" + b"y" * 102_400, 431),
    "length past the limit": (POST + b"Content-Length: 1001\r\n\r\n" + b"x" * 1001, 413),
    "chunks past the limit": (CHUNKED + b"258\r\n" + b"x" * 600 + b"\r\n258\r\n" + b"x" * 600 + b"\r\n", 413),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_requests_get_their_answer_and_end(client: RawClient, site: Site, name: str) -> None:
    data, status = MALFORMED[name]
    client.send(data)
    answer = await client.answer()
    assert answer.status == status
    assert answer.headers["connection"] == "close"
    assert b'"error"' in answer.body
    assert await client.ended() == b""
    assert site.seen == []


async def test_the_limits_themselves_are_allowed(client: RawClient) -> None:
    client.send(b"GET / HTTP/1.1\r\nHost: t\r\n" + b"a: b\r\n" * 63 + b"\r\n")
    client.send(POST + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000)
    client.send(CHUNKED + b"3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n")
    assert [(await client.answer()).status for _ in range(3)] == [200, 200, 200]


async def test_a_smuggled_request_is_never_seen(client: RawClient, site: Site) -> None:
    client.send(
        POST
        + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n"
    )
    assert (await client.answer()).status == 400
    assert await client.ended() == b""
    assert site.seen == []


@pytest.mark.parametrize("opening", [b"GET / HTTP/1.1\r\nX: ", CHUNKED + b"2;", CHUNKED + b"0\r\nX: "])
async def test_an_endless_line_ends(client: RawClient, opening: bytes) -> None:
    """In a head, a chunk extension, a trailer: none grows in memory."""
    client.send(opening)
    for _ in range(6):
        client.send(b"y" * 4096)
        await client.writer.drain()
        await asyncio.sleep(0)
    assert (await client.answer()).status == 431


async def test_endless_trailers_end(client: RawClient) -> None:
    client.send(CHUNKED + b"0\r\n" + b"X: y\r\n" * 100)
    assert (await client.answer()).status == 431


async def test_what_was_asked_before_the_bad_request_is_answered_first(client: RawClient, site: Site) -> None:
    client.send(b"GET /wait HTTP/1.1\r\nHost: t\r\n\r\nGET /b HTTP/1.1\r\nHost: t\r\n\r\nRUBBISH\r\n\r\n")
    await eventually(lambda: site.waiting)
    site.gate.set()
    assert [(await client.answer()).status for _ in range(3)] == [200, 200, 400]
    assert await client.ended() == b""


async def test_nothing_after_connection_close_is_answered(client: RawClient, site: Site) -> None:
    client.send(b"GET /a HTTP/1.1\r\n" + CLOSE + b"\r\nGET /b HTTP/1.1\r\nHost: t\r\n\r\n")
    assert (await client.answer()).body == b"GET /a "
    assert await client.ended() == b""
    assert site.seen == ["/a"]


async def test_an_answer_on_the_head_survives_the_body_that_follows(client: RawClient) -> None:
    """10 MiB are on their way when the refusal is sent: it must not be lost to a reset."""
    client.send(b"POST /closed HTTP/1.1\r\nHost: t\r\nContent-Length: 10485760\r\n\r\n" + bytes(10 << 20))
    assert (await client.answer()).status == 401
    assert await client.ended() == b""


async def test_a_refusal_without_a_body_keeps_the_connection(client: RawClient) -> None:
    client.send(b"GET /closed HTTP/1.1\r\nHost: t\r\n\r\nGET / HTTP/1.1\r\nHost: t\r\n\r\n")
    assert [(await client.answer()).status for _ in range(2)] == [401, 200]


async def test_defects_are_500_and_logged(client: RawClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "zpush.http"):
        client.send(b"GET /broken HTTP/1.1\r\nHost: t\r\n\r\nGET /broken-later HTTP/1.1\r\nHost: t\r\n\r\n")
        answers = [await client.answer() for _ in range(2)]
    assert [a.status for a in answers] == [500, 500]
    assert all(b"a defect" not in a.body for a in answers)
    assert len(caplog.records) == 2


# ---- time and memory


@pytest.mark.parametrize("start", [b"GET / HT", POST + b"Content-Length: 10\r\n\r\nab", CHUNKED + b"5\r\nab"])
async def test_half_a_request_then_silence(client: RawClient, start: bytes) -> None:
    client.send(start)
    answer = await client.answer()
    assert answer.status == 408
    assert await client.ended() == b""


async def test_one_byte_at_a_time_has_a_deadline(client: RawClient) -> None:
    client.send(POST + b"Content-Length: 900\r\n\r\n")

    async def drip() -> None:
        while True:
            client.send(b"x")
            await asyncio.sleep(0.1)

    dripping = asyncio.create_task(drip())
    try:
        assert (await client.answer()).status == 408
    finally:
        dripping.cancel()


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"])
async def test_an_idle_connection_is_closed(client: RawClient, start: bytes) -> None:
    client.send(start)
    if start:
        assert (await client.answer()).status == 200
    assert await client.ended() == b""


async def test_a_call_may_take_longer_than_clients_may(
    client: RawClient, site: Site, server: tuple[HttpServer, int]
) -> None:
    client.send(b"GET /wait HTTP/1.1\r\nHost: t\r\n\r\nGET /half HT")
    await eventually(lambda: server[0].now >= 3)
    site.gate.set()
    assert (await client.answer()).body == b"waited "
    client.send(b"TP/1.1\r\nHost: t\r\n\r\n")
    assert (await client.answer()).body == b"GET /half "


async def test_a_sender_that_never_reads_is_cut(server: tuple[HttpServer, int]) -> None:
    http, port = server
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setblocking(False)
    with sock:
        request = b"GET /large HTTP/1.1\r\nHost: t\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(sock, request * 200)
        await eventually(lambda: http.connections)
        await eventually(lambda: not http.connections, "the connection is cut")


async def test_a_slow_reader_gets_everything(client: RawClient) -> None:
    client.send(b"GET /large HTTP/1.1\r\nHost: t\r\n\r\n" * 20)
    for _ in range(20):
        assert len((await client.answer()).body) == 1 << 20


async def test_chunks_of_one_byte_cost_no_more_than_their_body() -> None:
    """And the budget over all connections refuses the next body with 503."""
    budget = BodyBudget(1500)
    readers = [
        RequestReader(lambda r: Route(lambda _: HttpResponse(200), 1000), 1000, HttpLimits(), budget, KnownHeads())
        for _ in range(2)
    ]
    for reader in readers:
        reader.feed(CHUNKED + b"1\r\nx\r\n" * 1000)
    assert readers[0].refusal is None
    assert readers[1].refusal is not None
    assert readers[1].refusal.status == 503
    assert budget.held_bytes == 1000
    readers[0].close()
    assert budget.held_bytes == 0


async def test_too_many_connections(site: Site) -> None:
    two = HttpLimits(connections=2)
    async with serving(site.route, two) as (_, port), connected(port) as a, connected(port) as b, connected(port) as c:
        answer = await c.answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        for client in (a, b):
            client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
            assert (await client.answer()).status == 200


async def test_stopping_answers_what_is_in_work_and_closes_the_rest(site: Site) -> None:
    async with serving(site.route) as (server, port), connected(port) as busy, connected(port) as idle:
        busy.send(b"GET /wait HTTP/1.1\r\nHost: t\r\n\r\n")
        await eventually(lambda: site.waiting and len(server.connections) == 2)
        stopping = asyncio.create_task(server.stop(5.0))
        assert await idle.ended() == b""
        site.gate.set()
        answer = await busy.answer()
        assert (answer.body, answer.headers["connection"]) == (b"waited ", "close")
        assert await busy.ended() == b""
        busy.close()
        await stopping


async def test_stopping_cuts_what_takes_too_long(site: Site) -> None:
    async with serving(site.route) as (server, port), connected(port) as busy:
        busy.send(b"GET /wait HTTP/1.1\r\nHost: t\r\n\r\n")
        await eventually(lambda: site.waiting)
        await server.stop(0.05)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await busy.answer()
        site.gate.set()


async def test_senders_that_vanish_leave_nothing(site: Site) -> None:
    async with serving(site.route) as (server, port):
        for start in (
            b"",
            b"GET / HT",
            POST + b"Content-Length: 10\r\n\r\nab",
            b"GET /wait HTTP/1.1\r\nHost: t\r\n\r\n",
        ):
            async with connected(port) as client:
                client.send(start)
                await eventually(lambda: server.connections)
                client.reset()
            await eventually(lambda: not server.connections)
        site.gate.set()
        await eventually(lambda: not server.answers)


# ---- any bytes, split anywhere


def _read(parts: list[bytes], heads: KnownHeads | None = None) -> tuple[list[tuple[str, str, bytes]], int | None]:
    """The requests that a reader makes of the parts, and the status of its refusal."""
    budget = BodyBudget(1 << 20)
    route = Route(lambda _: HttpResponse(200), LIMIT_BYTES)
    reader = RequestReader(lambda r: route, 1 << 20, HttpLimits(), budget, heads or KnownHeads())
    requests = []
    for part in parts:
        reader.feed(part)
        while reader.ready:
            request, _ = reader.ready.popleft()
            requests.append((request.method, request.path, request.body))
            reader.release(request)
    refused = reader.refusal.status if reader.refusal else None
    reader.close()
    assert budget.held_bytes == 0
    return requests, refused


pieces = st.sampled_from(
    [
        POST, CHUNKED, b"GET /a HTTP/1.1\r\nHost: t\r\n", b"Content-Length: 3\r\n", b"Connection: close\r\n",
        b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"X: y\r\n", b"\r\n", b"abc", b"3\r\nabc\r\n", b"0\r\n\r\n",
        b"\0", b"\r", b"\n", b" ",
    ]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(pieces, max_size=12).map(b"".join), st.data())
def test_splitting_changes_nothing(data: bytes, draw: st.DataObject) -> None:
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=4)))
    parts = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert _read(parts) == _read([data])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(pieces, max_size=6).map(b"".join), max_size=6))
def test_a_head_that_is_known_is_read_as_it_was_the_first_time(reads: list[bytes]) -> None:
    heads = KnownHeads()
    assert [_read([*reads, *reads], heads) for _ in range(2)] == [_read([*reads, *reads])] * 2
