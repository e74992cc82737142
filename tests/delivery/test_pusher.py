"""The push library: over a real queue, and over HTTP to a server of the test's own that speaks as the API does."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from tests.queue.backends import StreamsBackend, take_all
from tests.support import Valkey, eventually, free_port, run
from zpush.delivery.pusher import Counts, Push, Pusher, QueueLayout
from zpush.errors import (
    ConfigError,
    MalformedMessage,
    QueueFull,
    QueueUnavailable,
    RegistryUnavailable,
    Unauthorized,
    Unavailable,
)
from zpush.protocol.message import Kind, Outcome, Priority, Target

HIGH, NORMAL, LOW = Priority
LAYOUT = QueueLayout(partitions=4)


@pytest.fixture
async def streams(valkey: Valkey) -> AsyncIterator[StreamsBackend]:
    backend = StreamsBackend(valkey)
    yield backend
    await backend.close()


# Over the queue


async def test_a_push_is_in_the_queue_when_its_id_is_returned(valkey: Valkey, streams: StreamsBackend) -> None:
    async with Pusher(valkey.url, queue=LAYOUT) as pusher:
        message_id = await pusher.push(client="c1", data={"hello": 1}, priority="high", ttl=60)
        assert (await (await streams.producer()).lag())[HIGH].messages == 1
    (record,) = await take_all([await streams.consumer()], 1, HIGH)
    message = record.message
    assert (message.id, message.key, message.payload, message.kind) == (message_id, "c1", b'{"hello":1}', Kind.JSON)
    assert message.expires_ms - message.queued_ms == pytest.approx(60_000, abs=2_000)


async def test_every_kind_of_target_and_payload(valkey: Valkey, streams: StreamsBackend) -> None:
    async with Pusher(valkey.url, queue=LAYOUT) as pusher:
        assert await pusher.push(clients=["a", "b", "a"], text="t", id="several") == "several"
        await pusher.push(user="u1", binary=b"\x00\xff")
        await pusher.push(all=True, data=None, priority=Priority.NORMAL)
    records = await take_all([await streams.consumer()], 4)
    got = {(r.message.target, r.message.key, r.message.kind, r.message.payload) for r in records}
    assert got == {
        (Target.CLIENT, "a", Kind.TEXT, b"t"),
        (Target.CLIENT, "b", Kind.TEXT, b"t"),
        (Target.USER, "u1", Kind.BINARY, b"\x00\xff"),
        (Target.ALL, "", Kind.JSON, b"null"),
    }
    assert {r.message.id for r in records if r.message.key in "ab" and r.message.key} == {"several"}


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"text": "x"}, "to"),
        ({"client": "c", "user": "u", "text": "x"}, "to"),
        ({"client": "", "text": "x"}, "client"),
        ({"client": "a\nb", "text": "x"}, "client"),
        ({"clients": [], "text": "x"}, "clients"),
        ({"clients": "abc", "text": "x"}, "clients"),
        ({"client": "c"}, "data"),
        ({"client": "c", "text": "x", "data": 1}, "data"),
        ({"client": "c", "data": object()}, "data"),
        ({"client": "c", "text": "\ud800"}, "text"),
        ({"client": "c", "text": "x", "ttl": 0}, "ttl"),
        ({"client": "c", "text": "x", "ttl": -1}, "ttl"),
        ({"client": "c", "text": "x", "priority": "urgent"}, "priority"),
        ({"client": "c", "text": "x", "id": "i" * 300}, "id"),
        ({"client": "c", "text": "x", "id": "zpush:close:4002"}, "id"),
        ({"client": "c", "text": "x", "direct": True}, "direct"),
    ],
)
async def test_what_must_not_be_sent_is_an_exception_with_the_field(
    valkey: Valkey, streams: StreamsBackend, arguments: dict[str, Any], field: str
) -> None:
    async with Pusher(valkey.url, queue=LAYOUT) as pusher:
        with pytest.raises(MalformedMessage) as raised:
            await pusher.push(**arguments)
    assert raised.value.field == field
    assert await streams.redis.keys("zpush.*") == []


async def test_push_many_answers_each_and_keeps_the_order(valkey: Valkey, streams: StreamsBackend) -> None:
    pushes = [Push(client="c1", text=str(i)) for i in range(300)]
    pushes[100] = Push(client="c1", text="x", ttl=-1)
    async with Pusher(valkey.url, queue=LAYOUT) as pusher:
        results = await pusher.push_many(pushes)
        assert await pusher.push_many([]) == []
    assert isinstance(results.pop(100), MalformedMessage)
    records = await take_all([await streams.consumer()], 299)
    assert [r.message.id for r in records] == results


async def test_pushes_that_begin_while_it_starts_keep_their_order(valkey: Valkey, streams: StreamsBackend) -> None:
    """One in each turn of the loop, from before it has started until long after."""
    pusher, pushes = Pusher(valkey.url, queue=LAYOUT), []
    for number in range(300):
        pushes.append(asyncio.create_task(pusher.push(client="c1", text=str(number))))
        await asyncio.sleep(0)
    sent = await asyncio.gather(*pushes)
    await pusher.close()
    records = await take_all([await streams.consumer()], 300)
    assert [r.message.id for r in records] == sent


@pytest.mark.parametrize("started", [False, True])
async def test_what_is_begun_has_its_turn_at_the_call(valkey: Valkey, streams: StreamsBackend, started: bool) -> None:
    """Before what is called after it, in whatever form, and with nothing awaited between them."""
    pusher = Pusher(valkey.url, queue=LAYOUT)
    if started:
        await pusher.push(client="c0", text="starts it")
    begun = [
        pusher.begin(client="c1", text="1"),
        pusher.begin(clients=["c1"], text="2"),
        pusher.begin(client="c1", data=3, secure_token="t"),
        pusher.begin(client="c1", text="4"),
    ]
    last = await pusher.push(client="c1", text="5")
    many = await pusher.push_many([Push(client="c1", text="6")])
    sent = [*await asyncio.gather(*begun), last, *many]
    assert pusher.counts == Counts(taken=6 + started, refused=0)
    await pusher.close()
    records = await take_all([await streams.consumer()], 6 + started)
    assert [r.message.id for r in records if r.message.key == "c1"] == sent


async def test_what_is_begun_is_flushed_told_and_may_be_given_up(valkey: Valkey) -> None:
    told: list[str] = []
    async with Pusher(valkey.url, queue=LAYOUT, on_result=lambda push_id, _: told.append(push_id)) as pusher:
        begun = [pusher.begin(client="c1", text="x", id=f"m{n}") for n in range(3)]
        begun[1].cancel()
        await pusher.flush()
        assert begun[0].done() and begun[2].done() and told == ["m0", "m1", "m2"]
        with pytest.raises(MalformedMessage):
            pusher.begin(client="", text="x")
    with pytest.raises(RuntimeError, match="closed"):
        pusher.begin(client="c1", text="x")


async def test_a_full_queue_and_one_that_is_away_are_exceptions(valkey: Valkey, streams: StreamsBackend) -> None:
    async with Pusher(valkey.url, queue=QueueLayout(partitions=1, max_messages=5)) as pusher:
        results = await pusher.push_many([Push(client="c", text="x") for _ in range(8)])
        assert [isinstance(r, str) for r in results] == [True] * 5 + [False] * 3
        with pytest.raises(QueueFull):
            await pusher.push(client="c", text="x")
        valkey.kill()
        with pytest.raises(QueueUnavailable):
            await pusher.push(client="c", text="x")
        valkey.restart()

        async def back() -> bool:
            try:
                await pusher.push(client="c", text="x", priority="low")
            except QueueUnavailable:
                return False
            return True

        await eventually(back)


async def test_flush_waits_for_what_was_begun(valkey: Valkey, streams: StreamsBackend) -> None:
    pusher = Pusher(valkey.url, queue=LAYOUT)
    await pusher.flush()
    begun = [asyncio.create_task(pusher.push(client=f"c{i}", text="x")) for i in range(50)]
    await asyncio.sleep(0)
    await pusher.flush()
    assert all(task.done() for task in begun)
    await pusher.close()
    await pusher.close()
    with pytest.raises(RuntimeError, match="closed"):
        await pusher.push(client="c", text="x")


async def test_what_came_back_is_counted_and_told(valkey: Valkey, streams: StreamsBackend) -> None:
    told: list[tuple[str, object]] = []
    layout = QueueLayout(partitions=1, max_messages=5)
    async with Pusher(valkey.url, queue=layout, on_result=lambda *result: told.append(result)) as pusher:
        results = await pusher.push_many([Push(client="c", text="x", id=f"m{i}") for i in range(8)])
        assert told == [(f"m{i}", result) for i, result in enumerate(results)]
        with pytest.raises(QueueFull):
            await asyncio.to_thread(pusher.push_sync, client="c", text="x", id="from a thread")
        assert told[-1][0] == "from a thread" and isinstance(told[-1][1], QueueFull)
        with pytest.raises(MalformedMessage):
            await pusher.push(client="", text="never sent")
    assert pusher.counts == Counts(taken=5, refused=4)


def test_without_asyncio_from_several_threads(valkey: Valkey) -> None:
    ids: list[str] = []

    def send(thread: int) -> None:
        ids.extend(pusher.push_sync(client=f"c{thread}", text=str(i)) for i in range(50))

    with Pusher(valkey.url, queue=LAYOUT) as pusher:
        threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        many = pusher.push_many_sync([Push(user="u", text="x"), Push(user="", text="x")])
        pusher.flush_sync()
        with pytest.raises(MalformedMessage):
            pusher.push_sync(client="", text="x")
    assert isinstance(many[0], str) and isinstance(many[1], MalformedMessage)
    assert "zpush-pusher" not in {t.name for t in threading.enumerate()}

    async def received() -> list[str]:
        backend = StreamsBackend(valkey)
        records = await take_all([await backend.consumer()], 201)
        await backend.close()
        return [r.message.id for r in records]

    assert sorted(asyncio.run(received())) == sorted([*ids, many[0]])
    with pytest.raises(RuntimeError, match="closed"):
        pusher.push_sync(client="c", text="x")


def test_a_pusher_belongs_to_one_loop(valkey: Valkey) -> None:
    pusher = Pusher(valkey.url)

    async def push() -> None:
        await pusher.push(client="c", text="x")

    async def close() -> None:
        await pusher.close()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(push())
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(push())
    loop.run_until_complete(close())
    loop.close()


@pytest.mark.parametrize("url", ["127.0.0.1:8081", "", "redis://host:port", "http://", "http://h:p"])
def test_a_wrong_url_is_found_at_once(url: str) -> None:
    with pytest.raises(ConfigError):
        Pusher(url)


def test_without_confluent_kafka_a_kafka_url_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'zpush\[kafka\]'"):
        Pusher("kafka://127.0.0.1:9092")


def test_what_kafka_does_not_take_is_told_at_once_and_without_secrets() -> None:
    layout = QueueLayout(librdkafka={"sasl.password": "tiny-secret", "lingr.ms": "1"})
    assert "tiny-secret" not in repr(layout)
    with pytest.raises(ConfigError, match="No such configuration property") as caught:
        Pusher("kafka://127.0.0.1:9092", queue=layout)
    assert "tiny-secret" not in str(caught.value)


def test_what_keeps_it_from_starting_is_told_to_every_push(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ImportError("a proxy of the environment needs a package that is not there")

    monkeypatch.setattr(httpx, "AsyncClient", refuse)
    with Pusher("http://127.0.0.1:1") as pusher:
        for _ in range(2):
            with pytest.raises(ImportError, match="proxy"):
                pusher.push_sync(client="c", text="x")
    assert "zpush-pusher" not in {t.name for t in threading.enumerate()}


def test_a_sender_loads_only_what_its_url_needs(valkey: Valkey) -> None:
    code = f"""
import sys
from zpush import Pusher
with Pusher("{valkey.url}") as pusher:
    print(pusher.push_sync(client="c", text="x"))
print(*(m for m in ("uvloop", "httpx", "zpush._fast", "zpush.server", "zpush.master") if m in sys.modules))
"""
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    message_id, loaded = done.stdout.splitlines()
    assert len(message_id) == 24 and loaded == ""


# Over HTTP


class Api:
    """Answers POST /v1/push with what `answer` makes of the request's pushes: (status, body or rows)."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], list[dict[str, Any]]]] = []
        self.answer: Callable[[list[dict[str, Any]]], tuple[int, Any]] = self.queued
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                pushes = [json.loads(line) for line in body.splitlines()]
                api.requests.append((dict(self.headers), pushes))
                status, answer = api.answer(pushes)
                lines = answer if isinstance(answer, list) else [answer]
                data = b"\n".join(a if isinstance(a, bytes) else json.dumps(a).encode() for a in lines)
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}).start()

    @staticmethod
    def queued(pushes: list[dict[str, Any]]) -> tuple[int, Any]:
        rows = [{"id": p["id"], "queued": True} for p in pushes]
        return (202, rows[0]) if len(rows) == 1 else (200, rows)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def api() -> Iterator[Api]:
    server = Api()
    yield server
    server.close()


async def test_http_sends_what_the_api_reads(api: Api) -> None:
    async with Pusher(api.url, api_key="k" * 16) as pusher:
        message_id = await pusher.push(client="c1", data={"a": [1, "é"]}, priority=LOW, ttl=1.5)
        await pusher.push(clients=["a", "b"], binary=b"\x00\xff")
        await pusher.push(user="u", text="t")
        await pusher.push(all=True, text="t")
    heads, bodies = zip(*api.requests, strict=True)
    assert heads[0]["Authorization"] == f"Bearer {'k' * 16}"
    assert heads[0]["Content-Type"] == "application/json"
    (first,), (second,), (third,), (fourth,) = bodies
    expected = {"to": {"client": "c1"}, "data": {"a": [1, "é"]}, "priority": "low", "ttl": 1.5, "id": message_id}
    assert first == expected
    assert second["to"] == {"clients": ["a", "b"]} and b64decode(second["base64"]) == b"\x00\xff"
    assert third["to"] == {"user": "u"} and fourth["to"] == {"all": True}


async def test_direct_answers_outcomes(api: Api) -> None:
    async with Pusher(api.url) as pusher:
        api.answer = lambda pushes: (200, {"id": "i", "outcomes": [{"client": "c1", "outcome": "delivered"}]})
        assert await pusher.push(client="c1", text="now", direct=True) is Outcome.DELIVERED
        assert await pusher.push(clients=["c1"], text="now", direct=True) == {"c1": Outcome.DELIVERED}
        assert await pusher.push(user="u", text="now", direct=True) == {"c1": Outcome.DELIVERED}
        api.answer = lambda pushes: (200, {"id": "i", "outcomes": [{"user": "u", "outcome": "offline"}]})
        assert await pusher.push(user="u", text="now", direct=True) == {}
        api.answer = lambda pushes: (200, {"id": "i", "counts": {"delivered": 3, "dropped": 1}, "unreachable": 0})
        counts = await pusher.push(all=True, text="now", direct=True)
        assert counts == {Outcome.DELIVERED: 3, Outcome.DROPPED: 1}
    assert all(pushes[0]["direct"] for _, pushes in api.requests)


async def test_a_sender_that_waits_for_acks_waits_as_long_for_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the time that a direct push takes without them: the wait begins when a slow consumer has taken it."""
    waits: list[float] = []

    async def post(client: httpx.AsyncClient, url: str, *, timeout: httpx.Timeout, **_: Any) -> httpx.Response:
        assert timeout.read is not None
        waits.append(timeout.read)
        raise httpx.ReadTimeout("the test's own")

    monkeypatch.setattr(httpx.AsyncClient, "post", post)
    pushes = [Push(client="c", text="t", direct=True, wait_ack=wait) for wait in (None, 30.0, 5.0)]
    async with Pusher("http://127.0.0.1:1") as pusher:
        await pusher.push_many(pushes[:1])
        await pusher.push_many(pushes[1:2])
        await pusher.push_many(pushes)
    without, one, several = waits
    assert without > 30 + 5 and one == several == without + 30


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "malformed", MalformedMessage),
        (413, "too_large", MalformedMessage),
        (401, "unauthorized", Unauthorized),
        (503, "queue_full", QueueFull),
        (503, "queue_unavailable", QueueUnavailable),
        (503, "registry_unavailable", RegistryUnavailable),
        (429, "", Unavailable),
        (500, "", Unavailable),
    ],
)
async def test_http_errors_are_the_same_exceptions(api: Api, status: int, code: str, expected: type[Exception]) -> None:
    api.answer = lambda pushes: (status, {"error": {"code": code, "message": "why", "field": "text"}})
    async with Pusher(api.url) as pusher:
        with pytest.raises(expected, match="why"):
            await pusher.push(client="c", text="x")
        many = await pusher.push_many([Push(client="c", text="x") for _ in range(3)])
    assert [type(r) for r in many] == [expected] * 3


async def test_an_answer_that_is_none_of_the_apis(api: Api) -> None:
    api.answer = lambda pushes: (502, b"<html>bad gateway</html>")
    async with Pusher(api.url) as pusher:
        with pytest.raises(Unavailable, match="502"):
            await pusher.push(client="c", text="x")


async def test_many_are_one_request_a_line_each(api: Api) -> None:
    def answer(pushes: list[dict[str, Any]]) -> tuple[int, Any]:
        rows: list[dict[str, Any]] = [{"id": p["id"], "queued": True} for p in pushes]
        rows[1] = {"error": {"code": "malformed", "message": "too large", "field": "data"}}
        return 200, rows

    api.answer = answer
    async with Pusher(api.url) as pusher:
        results = await pusher.push_many([Push(client=f"c{i}", text="x") for i in range(2500)])
    assert [len(pushes) for _, pushes in api.requests] == [1000, 1000, 500]
    assert [i for i, r in enumerate(results) if isinstance(r, Exception)] == [1, 1001, 2001]
    assert api.requests[0][0]["Content-Type"] == "application/x-ndjson"


async def test_nobody_listens() -> None:
    async with Pusher(f"http://127.0.0.1:{free_port()}") as pusher:
        with pytest.raises(QueueUnavailable, match="the API at 127.0.0.1"):
            await pusher.push(client="c", text="x")


def test_http_without_asyncio(api: Api) -> None:
    with Pusher(api.url) as pusher:
        assert isinstance(pusher.push_sync(client="c", text="x"), str)
        api.answer = lambda pushes: (200, {"id": "i", "outcomes": [{"client": "c", "outcome": "offline"}]})
        assert pusher.push_sync(client="c", text="x", direct=True) is Outcome.OFFLINE
