"""Broken and hostile senders against a whole server: each gets its answer, nothing of it is taken, nobody notices.

Bodies and heads are tested piece by piece in tests/protocol/test_push.py and tests/server; here they meet real
workers on the API port, while two settled clients are served.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from tests.road.api import Api
from tests.road.bystanders import Bystanders
from tests.road.devices import Connect
from tests.road.raw import Raw
from tests.road.server import Server
from zpush.protocol.message import Priority

TO = {"client": "victim"}
JSON, NDJSON = "application/json", "application/x-ndjson"


@pytest.fixture
async def around(server: Server, api: Api) -> AsyncIterator[Bystanders]:
    async with Bystanders(server, api) as bystanders:
        yield bystanders
        await bystanders.unharmed()


def request(body: bytes, *fields: str, kind: str = JSON, length: bool = True) -> bytes:
    """POST /v1/push as bytes; fields are added as they are."""
    lines = ["POST /v1/push HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}", *fields]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


async def published(api: Api) -> float:
    return (await api.metrics()).total("zpush_published_total")


# ---- bodies

PUSHES = {
    "no JSON": (b"{", 400, ""),
    "nothing": (b"", 400, ""),
    "an array": (b"[]", 400, ""),
    "invalid UTF-8": (b'{"to":{"client":"victim"},"text":"\xff"}', 400, ""),
    "invalid UTF-8 in data": (b'{"to":{"client":"victim"},"data":"\xff"}', 400, "data"),
    "10,000 brackets": (b'{"to":{"client":"victim"},"data":' + b"[" * 10_000 + b"]" * 10_000 + b"}", 400, "data"),
    "10,000 brackets and no end": (b"[" * 10_000, 400, ""),
    "an unknown field": ({"to": TO, "text": "a", "prio": "high"}, 400, "prio"),
    "a negative TTL": ({"to": TO, "text": "a", "ttl": -1}, 400, "ttl"),
    "priority urgent": ({"to": TO, "text": "a", "priority": "urgent"}, 400, "priority"),
    "text and data": ({"to": TO, "text": "a", "data": 1}, 400, "data"),
    "neither": ({"to": TO}, 400, "data"),
    "nobody named": ({"text": "a"}, 400, "to"),
    "a client id with a newline": ({"to": {"client": "a\nb"}, "text": "a"}, 400, "to.client"),
    "a client id with NUL": ({"to": {"client": "a\0b"}, "text": "a"}, 400, "to.client"),
    "a client id of 5 kB": ({"to": {"client": "a" * 5000}, "text": "a"}, 400, "to.client"),
    "a lone surrogate": (b'{"to":{"client":"\\ud800"},"text":"a"}', 400, ""),
    "a byte more than allowed": ({"to": TO, "text": "a" * 65_537}, 413, "text"),
    "10 MiB": ({"to": TO, "text": "a" * (10 << 20)}, 413, ""),
}


@pytest.mark.parametrize("name", PUSHES)
@pytest.mark.parametrize("direct", [False, True], ids=["queued", "direct"])
async def test_bad_pushes_are_refused_and_name_the_field(
    server: Server, api: Api, around: Bystanders, name: str, direct: bool
) -> None:
    body, status, field = PUSHES[name]
    if isinstance(body, dict):
        body = json.dumps(body | ({"direct": True} if direct else {})).encode()
    before = await published(api)
    async with Api(server.api) as sender:  # whose connection may end
        response = await sender.http.post("/v1/push", content=body, headers={"Content-Type": JSON})
    assert response.status_code == status
    error = response.json()["error"]
    assert error["code"] == ("malformed" if status == 400 else "too_large")
    assert error["field"] == field
    assert error["message"]
    assert len(response.content) < 1000, "a hostile value is not echoed"
    assert await published(api) == before


@pytest.mark.parametrize("priority", [p.label for p in Priority])
async def test_a_push_to_nobody_is_offline(server: Server, api: Api, around: Bystanders, priority: str) -> None:
    assert await api.direct("nobody", "hello", priority=priority) == "offline"
    before = (await api.metrics()).total("zpush_messages_total", outcome="offline", priority=priority)
    await api.push({"client": "nobody"}, text="hello", priority=priority)
    await api.until_counted("zpush_messages_total", before + 1, outcome="offline", priority=priority)


async def test_a_bad_line_spoils_no_other(
    server: Server, api: Api, around: Bystanders, connect: Connect, name: str
) -> None:
    device = await connect(server, name)
    good = [json.dumps({"to": {"client": name}, "text": str(n), "id": str(n)}) for n in range(3)]
    bad = ["{", "", json.dumps({"to": {"client": name}, "text": "x", "ttl": -1}), "[" * 10_000, "x" * 1_000_000]
    lines = [line for pair in zip(bad, [*good, "null", "[]"], strict=True) for line in pair]
    status, answers = await api.batch(lines)
    assert status == 200
    assert [answers[i] for i in (1, 3, 5)] == [{"id": str(n), "queued": True} for n in range(3)]
    assert [answer["error"]["code"] for i, answer in enumerate(answers) if i not in (1, 3, 5)] == [
        *["malformed"] * 5, "too_large", "malformed",
    ]  # fmt: skip
    assert await device.receive_all(3) == ["0", "1", "2"]
    await device.close()


# ---- heads and bodies that do not agree

ONE = json.dumps({"to": TO, "text": "smuggled?"}).encode()
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(ONE), ONE)
REFUSED = {
    "Content-Length twice": (request(ONE, f"Content-Length: {len(ONE)}"), 400),
    "two lengths": (request(ONE, "Content-Length: 3"), 400),
    "Content-Length and chunked": (request(CHUNKED, "Transfer-Encoding: chunked"), 400),
    "a coding that is not chunked": (request(ONE, "Transfer-Encoding: gzip", length=False), 501),
    "chunked twice": (request(CHUNKED, "Transfer-Encoding: chunked, chunked", length=False), 400),
    "a chunk size that is none": (request(b"-1\r\n", "Transfer-Encoding: chunked", length=False), 400),
    "a negative length": (request(b"", "Content-Length: -1", length=False), 400),
    "obs-fold": (request(ONE, "X: a\r\n b"), 400),
    "NUL in the path": (request(ONE).replace(b"/v1", b"/v\0"), 400),
    "a head of 100 KiB": (request(ONE, "X: " + "x" * 102_400), 431),
    "10,000 headers": (request(ONE, *["X: x"] * 10_000), 431),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "an endless line": (b"POST /" + b"x" * 50_000, 431),
    "10 MiB announced": (request(b"", f"Content-Length: {10 << 20}", length=False), 413),
    "2^64 announced": (request(b"", f"Content-Length: {1 << 64}", length=False), 400),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_bad_requests_end_their_connection(server: Server, api: Api, around: Bystanders, name: str) -> None:
    data, status = REFUSED[name]
    before = await published(api)
    bad = await Raw.connect(server.api)
    await bad.send(data)
    await bad.send(request(ONE))  # whatever the first one's end was taken for, this is not another request
    answer = await bad.rest()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"\r\n\r\n") == 1
    assert await published(api) == before
    await bad.close()


async def test_a_chunked_body_is_a_body(server: Server, api: Api, around: Bystanders) -> None:
    before = await published(api)
    sender = await Raw.connect(server.api)
    pieces = b"".join(b"1;ext=x\r\n%c\r\n" % byte for byte in ONE)
    await sender.send(request(pieces + b"0\r\nTrailer: x\r\n\r\n", "Transfer-Encoding: chunked", length=False))
    assert (await sender.head()).startswith(b"HTTP/1.1 202 ")
    assert await published(api) == before + 1
    await sender.close()


@pytest.mark.parametrize("framing", ["chunked", "length"])
async def test_an_endless_line_of_a_batch_ends(server: Server, api: Api, around: Bystanders, framing: str) -> None:
    """It is refused at its bound, not when it has come to an end."""
    before = await published(api)
    sender = await Raw.connect(server.api)
    if framing == "chunked":
        await sender.send(request(b"", "Transfer-Encoding: chunked", kind=NDJSON, length=False))
    else:
        await sender.send(request(b"", f"Content-Length: {1 << 40}", kind=NDJSON, length=False))
    piece = b"x" * 65_536
    answer = asyncio.create_task(sender.rest())
    for number in range(1024):
        if number % 100 == 50:
            await around.served()
        try:
            await sender.send(b"10000\r\n%b\r\n" % piece if framing == "chunked" else piece)
        except ConnectionError:
            break
        if answer.done():
            break
    assert number < 400, "16 MiB is what a batch may have, and some more is under way"
    assert (await answer).startswith(b"HTTP/1.1 413 ")
    assert await published(api) == before
    await sender.close()


async def test_senders_that_vanish_are_forgotten(server: Server, around: Bystanders) -> None:
    for data in (b"", b"POST /v1", request(ONE)[:-5], request(ONE), request(b"1\r\n", "Transfer-Encoding: chunked")):
        for _ in range(5):
            sender = await Raw.connect(server.api)
            if data:
                await sender.send(data)
            sender.reset()
    await around.served()


async def test_a_sender_that_never_reads_its_answers(server: Server, around: Bystanders) -> None:
    """Requests without end, answers that nobody takes: the server stops reading."""
    sender = await Raw.connect(server.api, receive_bytes=4096)
    many = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 200
    try:
        async with asyncio.timeout(1):
            for _ in range(2000):
                await sender.send(many)
        raise AssertionError("it took 18 MB of requests")
    except TimeoutError:
        pass
    await around.served()
    sender.reset()
