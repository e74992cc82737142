"""Batches and large pushes over real HTTP: a line spoils no other, and nobody's turn waits for all of one."""

from __future__ import annotations

import json

import pytest

from tests.server.api_world import World, api_world, error, posted, with_api
from tests.support import turns
from zpush.errors import QueueUnavailable
from zpush.server.api_push import SLICE, PushApi
from zpush.server.http_message import HttpResponse


async def test_a_batch_is_one_publish_and_one_route_in_order(world: World) -> None:
    world.of_user("u1", "c2")
    response = await world.lines(
        '{"to":{"client":"c9"},"text":"1","id":"q1"}',
        '{"to":{"client":"c1"},"text":"2","id":"d1","direct":true}',
        "not json",
        '{"to":{"clients":["a","b"]},"text":"3","id":"q2"}',
        '{"to":{"user":"u1"},"text":"4","id":"d2","direct":true}',
        '{"to":{"client":"c3"},"text":"5","id":"d3","direct":true}',
        '{"to":{"all":true},"text":"6","id":"d4","direct":true}',
        b'{"to":{"client":"c1"},"text":"\xff"}',
    )
    assert (response.status_code, response.headers["content-type"]) == (200, "application/x-ndjson")
    answers = [json.loads(line) for line in response.content.splitlines()]
    delivered = {"outcome": "delivered"}
    assert answers[:2] == [{"id": "q1", "queued": True}, {"id": "d1", "outcomes": [{"client": "c1", **delivered}]}]
    assert answers[2]["error"]["code"] == "malformed"
    assert answers[3:6] == [
        {"id": "q2", "queued": True},
        {"id": "d2", "outcomes": [{"client": "c2", **delivered}]},
        {"id": "d3", "outcomes": [{"client": "c3", **delivered}]},
    ]
    assert answers[6] == {"id": "d4", "counts": {"delivered": 3}, "unreachable": 0}
    assert answers[7]["error"]["code"] == "malformed"
    assert [[m.key for m in batch] for batch in world.queue.batches] == [["c9", "a", "b"]]
    assert world.registry.look_ups[-1] == ["c3"]


async def test_a_batch_while_the_queue_is_away(world: World) -> None:
    world.queue.refuse["*"] = QueueUnavailable("away")
    queued, direct = '{"to":{"client":"c1"},"text":"1"}', '{"to":{"client":"c1"},"text":"1","direct":true}'
    nothing_taken = await world.lines(queued, "rubbish", queued)
    assert (nothing_taken.status_code, nothing_taken.headers["retry-after"]) == (503, "1")
    codes = [json.loads(line)["error"]["code"] for line in nothing_taken.content.splitlines()]
    assert codes == ["queue_unavailable", "malformed", "queue_unavailable"]
    some_taken = await world.lines(queued, direct)
    assert some_taken.status_code == 200
    assert ["error" in json.loads(line) for line in some_taken.content.splitlines()] == [True, False]


async def test_a_batch_while_the_registry_is_away(world: World) -> None:
    world.registry.away = True
    response = await world.lines(
        '{"to":{"client":"c3"},"text":"1","direct":true}',
        '{"to":{"user":"u1"},"text":"1","direct":true}',
        '{"to":{"client":"c1"},"text":"1","direct":true}',
        '{"to":{"all":true},"text":"1","direct":true}',
    )
    assert response.status_code == 200
    codes = [json.loads(line).get("error", {}).get("code") for line in response.content.splitlines()]
    assert codes == ["registry_unavailable", "registry_unavailable", None, "registry_unavailable"]


async def test_bounds_of_a_batch() -> None:
    async with api_world(with_api(batch_lines=3, push_bytes=1000)) as world:
        line = '{"to":{"client":"c1"},"text":"1"}'
        assert (await world.lines(line, line, line)).status_code == 200
        assert error(await world.lines(line, line, line, line)) == (413, "too_large", "")
        long = json.dumps({"to": {"client": "c1"}, "text": "x" * 1001})
        codes = [
            json.loads(x).get("error", {}).get("code") for x in (await world.lines(long, line)).content.splitlines()
        ]
        assert codes == ["too_large", None]
        endless = await world.lines(b"x" * (17 << 20))
        assert endless.status_code == 413
        empty = await world.http.post("/v1/push", content=b"", headers={"Content-Type": "application/x-ndjson"})
        assert error(empty) == (400, "malformed", "")


async def test_a_batch_of_ten_thousand(world: World) -> None:
    lines = [json.dumps({"to": {"client": f"c{i}"}, "text": "1", "id": f"i{i}"}) for i in range(10_000)]
    response = await world.lines(*lines)
    assert [json.loads(line)["id"] for line in response.content.splitlines()] == [f"i{i}" for i in range(10_000)]
    assert len(world.queue.batches) == 1


LARGE = {
    "queued": b'{"to":{"client":"c%d"},"text":"1"}',
    "direct": b'{"to":{"client":"c%d"},"text":"1","direct":true}',
    "to users": b'{"to":{"user":"u%d"},"text":"1","direct":true}',
    "bad": b'{"to":{"client":"c%d"}',
}


@pytest.mark.parametrize("kind", LARGE)
async def test_a_large_batch_lets_others_have_their_turns(world: World, kind: str) -> None:
    lines = [LARGE[kind] % n for n in range(5000)]
    with turns() as had:
        response = await PushApi(world.context).batch(posted(b"\n".join(lines)))
    assert (response.status, response.body.count(b"\n")) == (200, 5000)
    assert had() >= 2 * 5000 // SLICE


async def test_a_queued_push_to_many_clients_lets_others_have_their_turns(world: World) -> None:
    clients = [f"c{n}" for n in range(20_000)]
    request = posted(json.dumps({"to": {"clients": clients}, "text": "1"}).encode())
    with turns() as had:
        answer = PushApi(world.context).push(request)
        assert not isinstance(answer, HttpResponse)
        assert (await answer).status == 202
    assert had() >= 20_000 // SLICE - 1
    assert [message.key for message in world.queue.messages] == clients


async def test_long_lines_of_brackets_let_others_have_their_turns(world: World) -> None:
    line = b'{"to":{"client":"c1"},"data":[' + b"[]," * 20_000 + b"[]]}"
    with turns() as had:
        await PushApi(world.context).batch(posted(b"\n".join([line] * 20)))
    assert had() >= 10
    assert len(world.queue.messages) == 20


async def test_a_direct_push_to_many_clients_lets_others_have_their_turns(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [f"n{n}" for n in range(5000)]
    body = json.dumps({"to": {"clients": ["c1", *clients, "c3"]}, "text": "x", "direct": True}).encode()
    routed_in: set[int] = set()
    route = world.context.router.route
    with turns() as had:
        monkeypatch.setattr(world.context.router, "route", lambda jobs: routed_in.add(had()) or route(jobs))
        answer = PushApi(world.context).push(posted(body))
        assert not isinstance(answer, HttpResponse)
        response = await answer
    told = [row["outcome"] for row in json.loads(response.body)["outcomes"]]
    assert (told[0], set(told[1:-1]), told[-1]) == ("delivered", {"offline"}, "delivered")
    assert len(routed_in) >= 5000 // SLICE
