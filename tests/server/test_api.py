"""The API over real HTTP: every call, and what it answers when things are wrong or away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec import structs

from tests.delivery.world import SECRET
from tests.server.api_world import KEY, SETTINGS, World, api_world, with_api
from tests.server.raw_http import connected, serving
from tests.support import eventually, turns
from zpush.errors import QueueFull, QueueUnavailable
from zpush.protocol.message import Kind, Outcome, Priority, Target
from zpush.protocol.secure_token import SecureTokens
from zpush.registry.base import NodeState
from zpush.scoreboard import API_STATUSES
from zpush.server import direct
from zpush.server.api_guard import Guard
from zpush.server.api_push import SLICE, PushApi
from zpush.server.http_message import HttpRequest, HttpResponse, error_response
from zpush.server.pages import load_pages


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with api_world() as world:
        yield world


def outcomes(response: httpx.Response) -> list[tuple[str, str]]:
    assert response.status_code == 200, response.text
    return [(row.get("client", ""), row["outcome"]) for row in response.json()["outcomes"]]


def error(response: httpx.Response) -> tuple[int, str, str]:
    body = response.json()["error"]
    assert set(body) == {"code", "message", "field"}
    return response.status_code, body["code"], body["field"]


def posted(body: bytes) -> HttpRequest:
    return HttpRequest("POST", "/v1/push", "", {}, False, True, False, len(body), body)


# ---- queued pushes


async def test_a_push_is_queued(world: World) -> None:
    response = await world.push(to={"client": "c1"}, data={"a": 1}, priority="high", ttl=60, id="i1")
    assert (response.status_code, response.json()) == (202, {"id": "i1", "queued": True})
    [message] = world.queue.messages
    assert (message.id, message.key, message.payload, message.kind) == ("i1", "c1", b'{"a":1}', Kind.JSON)
    assert (message.priority, message.expires_ms - message.queued_ms) == (Priority.HIGH, 60_000)
    assert world.row.get("published_high") == 1
    assert world.row.get("taken_high") == 0  # the processor's to count


@pytest.mark.parametrize(
    ("to", "keys", "target"),
    [
        ({"clients": ["a", "b"]}, ["a", "b"], Target.CLIENT),
        ({"user": "u"}, ["u"], Target.USER),
        ({"all": True}, [""], Target.ALL),
    ],
)
async def test_other_targets_are_queued_in_one_batch(world: World, to: Any, keys: list[str], target: Target) -> None:
    assert (await world.push(to=to, text="x")).status_code == 202
    [batch] = world.queue.batches
    assert [(m.key, m.target) for m in batch] == [(key, target) for key in keys]


@pytest.mark.parametrize(
    ("refusal", "code"), [(QueueFull("full"), "queue_full"), (QueueUnavailable("away"), "queue_unavailable")]
)
async def test_the_queue_is_full_or_away(world: World, refusal: Exception, code: str) -> None:
    world.queue.refuse["*"] = refusal
    response = await world.push(to={"client": "c1"}, text="x")
    assert error(response) == (503, code, "")
    assert response.headers["retry-after"] == "1"
    assert world.row.get("published_normal") == 0


async def test_some_of_several_are_refused_and_named(world: World) -> None:
    world.queue.refuse["b"] = QueueFull("full")
    response = await world.push(to={"clients": ["a", "b", "c"]}, text="x", id="i1")
    body = response.json()
    assert (response.status_code, body["error"]["code"]) == (503, "queue_full")
    assert (body["id"], body["refused"]) == ("i1", ["b"])
    assert world.row.get("published_normal") == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"to": {"client": "c1"}}, "data"),
        ({"to": {"client": "c1"}, "text": "x", "ttl": -5}, "ttl"),
        ({"to": {"client": "c1"}, "text": "x", "priority": "urgent"}, "priority"),
        ({"to": {"client": "c1"}, "text": "x", "colour": "red"}, "colour"),
        ({"to": {"client": "a\nb"}, "text": "x"}, "to.client"),
    ],
)
async def test_a_malformed_push(world: World, body: dict[str, Any], field: str) -> None:
    assert error(await world.push(**body)) == (400, "malformed", field)
    assert world.queue.messages == []


async def test_large_pushes(world: World) -> None:
    assert (await world.push(to={"client": "c1"}, text="x" * 65536)).status_code == 202
    assert error(await world.push(to={"client": "c1"}, text="x" * 65537)) == (413, "too_large", "data")
    assert error(await world.push(to={"client": "c1"}, text="x" * (10 << 20)))[0] == 413
    assert len(world.queue.messages) == 1


async def test_a_push_is_never_taken_twice_from_a_body_with_two_values(world: World) -> None:
    body = b'{"to":{"client":"c1"},"text":"1"}'
    response = await world.http.post("/v1/push", content=body + body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert world.queue.messages == []


# ---- direct pushes


async def test_direct_to_this_worker_another_and_nobody(world: World) -> None:
    response = await world.push(
        to={"clients": ["c3", "nobody", "c1"]}, text="now", direct=True, id="i1", priority="low"
    )
    assert outcomes(response) == [("c3", "delivered"), ("nobody", "offline"), ("c1", "delivered")]
    assert world.here.table.got == [("c1", "i1")]
    assert world.there.table.got == [("c3", "i1")]
    assert world.counted(Outcome.DELIVERED, Priority.LOW) == 2
    assert world.counted(Outcome.OFFLINE, Priority.LOW) == 1
    assert world.row.get("taken_low") == 3
    assert world.queue.batches == []


async def test_direct_waits_for_a_slow_consumer(world: World) -> None:
    world.here.table.answers["c1"] = Outcome.PENDING
    pushing = asyncio.create_task(world.push(to={"client": "c1"}, text="now", direct=True))
    await eventually(lambda: world.here.table.waiting)
    world.here.table.settle(Outcome.DROPPED)
    assert outcomes(await pushing) == [("c1", "dropped")]


async def test_an_outcome_is_counted_also_when_the_sender_has_left(world: World) -> None:
    world.here.table.answers["c1"] = Outcome.PENDING
    body = b'{"to":{"client":"c1"},"text":"x","direct":true}'
    async with connected(world.port) as client:
        head = (
            b"POST /v1/push HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        )
        client.send(head % len(body) + body)
        await eventually(lambda: world.here.table.waiting)
        client.reset()
    world.here.table.settle()
    await eventually(lambda: world.counted(Outcome.DELIVERED) == 1)


async def test_direct_to_a_user(world: World) -> None:
    world.of_user("u1", "c1", "c3")
    assert outcomes(await world.push(to={"user": "u1"}, text="x", direct=True)) == [
        ("c1", "delivered"),
        ("c3", "delivered"),
    ]


async def test_direct_to_a_user_without_devices_is_one_offline(world: World) -> None:
    response = await world.push(to={"user": "u9"}, text="x", direct=True)
    assert response.json()["outcomes"] == [{"user": "u9", "outcome": "offline"}]
    assert world.counted(Outcome.OFFLINE) == 1


async def test_a_user_may_come_while_a_worker_writes_its_leases_again(world: World) -> None:
    world.registry.say(world.there, NodeState.REPAIRING)
    pushing = asyncio.create_task(world.push(to={"user": "u1"}, text="x", direct=True))
    await eventually(lambda: world.registry.whole_reads)
    world.of_user("u1", "c3")
    assert outcomes(await pushing) == [("c3", "delivered")]


async def test_direct_to_all_answers_counts(world: World) -> None:
    response = await world.push(to={"all": True}, text="x", direct=True, id="i1")
    assert response.json() == {"id": "i1", "counts": {"delivered": 3}, "unreachable": 0}
    assert [b[0] for b in world.here.table.broadcasts + world.there.table.broadcasts] == ["i1", "i1"]
    assert world.counted(Outcome.DELIVERED) == 3
    again = await world.push(to={"all": True}, text="x", direct=True, id="i1")
    assert again.json() == {"id": "i1", "counts": {}, "unreachable": 0}
    assert world.counted(Outcome.DELIVERED) == 3


async def test_direct_to_all_says_who_could_not_be_asked(world: World) -> None:
    await world.there.die()
    response = await world.push(to={"all": True}, text="x", direct=True, id="i1")
    assert response.json() == {"id": "i1", "counts": {"delivered": 2}, "unreachable": 1}


async def test_all_stays_in_its_region(world: World) -> None:
    world.registry.live["there"] = structs.replace(world.there.node, region="elsewhere")
    assert (await world.push(to={"all": True}, text="x", direct=True)).json()["counts"] == {"delivered": 2}


@pytest.mark.parametrize("to", [{"client": "c3"}, {"clients": ["c1", "c3"]}, {"user": "u1"}, {"all": True}])
async def test_registry_away_and_a_target_elsewhere(world: World, to: dict[str, Any]) -> None:
    world.registry.away = True
    response = await world.push(to=to, text="x", direct=True)
    assert error(response) == (503, "registry_unavailable", "")
    assert response.headers["retry-after"] == "1"
    assert world.here.table.got == []
    assert world.here.table.broadcasts == []


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "DIRECT_RETRY_S", 0.05)


def repair(world: World) -> None:
    """c3's lease has yet to be written again."""
    del world.registry.leases["c3"]
    world.registry.say(world.there, NodeState.REPAIRING)


async def test_direct_to_a_client_whose_lease_may_be_missing(world: World, impatient: None) -> None:
    """No outcome is made up, none is counted, and the sender knows for whom to repeat it."""
    repair(world)
    for to in ({"client": "c3"}, {"clients": ["c1", "c3"]}, {"user": "u9"}):
        response = await world.push(to=to, text="x", direct=True)
        assert error(response) == (503, "registry_unavailable", ""), to
        assert response.headers["retry-after"] == "1"
    several = (await world.push(to={"clients": ["c1", "c3"]}, text="x", direct=True, id="i1")).json()
    assert several["refused"] == ["c3"] and several["id"] == "i1"
    assert several["outcomes"] == [{"client": "c1", "outcome": "delivered"}]
    lines = [{"to": {"client": c}, "text": "x", "direct": True} for c in ("c3", "c1")]
    batch = await world.lines(*map(json.dumps, lines))
    refused, taken = (json.loads(line) for line in batch.text.splitlines())
    assert batch.status_code == 200 and refused["error"]["code"] == "registry_unavailable"
    assert taken["outcomes"] == [{"client": "c1", "outcome": "delivered"}]
    assert world.row.get("taken_normal") == 3 == world.counted(Outcome.DELIVERED)
    world.registry.put("c3", world.there)
    assert outcomes(await world.push(to={"client": "c3"}, text="x", direct=True)) == [("c3", "delivered")]


async def test_who_is_connected_is_not_denied_while_leases_may_be_missing(world: World, impatient: None) -> None:
    repair(world)
    for path in ("/v1/clients/c3", "/v1/users/u1"):
        for method in ("GET", "DELETE"):
            assert error(await world.http.request(method, path)) == (503, "registry_unavailable", ""), (method, path)
    assert [await zuul(world, method, "c3") for method in ("GET", "POST")] == [503, 503]
    assert await zuul(world, "POST", "c3", headers={"X-Zuul.push.secure.token": "any"}) == 503
    del world.registry.leases["c1"]
    assert await zuul(world, "GET", "c1") == 200
    assert (await world.http.delete("/v1/clients/c1")).status_code == 200, "it is connected here"
    assert world.here.table.closed[-1] == ("c1", 0, 4005)


async def test_registry_away_and_all_targets_here(world: World) -> None:
    world.registry.away = True
    response = await world.push(to={"clients": ["c1", "c2"]}, text="x", direct=True)
    assert outcomes(response) == [("c1", "delivered"), ("c2", "delivered")]


# ---- batches


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


# ---- clients, users, nodes


async def test_where_a_client_is(world: World) -> None:
    world.of_user("u1", "c3")
    response = await world.http.get("/v1/clients/c3")
    assert response.status_code == 200
    body = response.json()
    assert (body["client"], body["user"], body["node"], body["epoch"], body["since_ms"]) == ("c3", "u1", "there", 1, 1)
    assert body["address"] == world.there.node.address


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_client_that_is_nowhere(world: World, method: str) -> None:
    world.registry.put("ghost", "dead-node")
    for client_id in ("nobody", "ghost"):
        assert error(await world.http.request(method, f"/v1/clients/{client_id}")) == (404, "not_found", "")


@pytest.mark.parametrize(
    ("path", "status"),
    [("a%2Fb%20%C3%BC", 200), ("a%00b", 400), ("%FF", 400), ("x" * 256, 400), ("", 400), ("a/b", 404)],
)
async def test_ids_in_paths(world: World, path: str, status: int) -> None:
    world.registry.put("a/b ü", world.here)
    assert (await world.http.get(f"/v1/clients/{path}")).status_code == status


async def test_disconnecting_clients(world: World) -> None:
    response = await world.http.delete("/v1/clients/c1")
    assert response.json() == {"client": "c1", "disconnected": True}
    assert world.here.table.closed == [("c1", 1, 4005)]
    assert (await world.http.delete("/v1/clients/c3")).status_code == 200
    assert world.there.table.closed == [("c3", 1, 4005)]
    world.registry.put("moved", world.there)  # its worker does not hold it
    assert (await world.http.delete("/v1/clients/moved")).status_code == 404


async def test_disconnecting_while_the_registry_is_away(world: World) -> None:
    world.registry.away = True
    assert (await world.http.delete("/v1/clients/c1")).status_code == 200
    assert world.here.table.closed == [("c1", 0, 4005)]
    for method, path in (("GET", "/v1/clients/c1"), ("DELETE", "/v1/clients/c3"), ("DELETE", "/v1/users/u1")):
        response = await world.http.request(method, path)
        assert error(response) == (503, "registry_unavailable", ""), "it may be connected elsewhere"
        assert response.headers["Retry-After"]


async def test_users(world: World) -> None:
    world.of_user("u1", "c1", "c3")
    world.registry.put("gone", "dead-node")
    world.of_user("u1", "gone")
    response = await world.http.get("/v1/users/u1")
    assert [(c["client"], c["node"]) for c in response.json()["clients"]] == [("c1", "here"), ("c3", "there")]
    assert (await world.http.get("/v1/users/u9")).json() == {"user": "u9", "clients": []}
    assert (await world.http.delete("/v1/users/u1")).json() == {"user": "u1", "disconnected": 2}
    assert world.there.table.closed == [("c3", 1, 4005)]
    assert error(await world.http.delete("/v1/users/u9")) == (404, "not_found", "")


async def test_nodes(world: World) -> None:
    world.registry.live["there"] = structs.replace(world.there.node, dirty_leases=70)
    answer = (await world.http.get("/v1/nodes")).json()
    assert answer["registry"] == {"server": "memory", "role": "master", "replicas": 0, "reason": ""}
    nodes = answer["nodes"]
    assert [n["dirty_leases"] for n in nodes] == [0, 70]
    assert [(n["node"], n["state"], n["region"]) for n in nodes] == [("here", "up", "local"), ("there", "up", "local")]


async def test_a_registry_that_hangs_is_answered_503(world: World) -> None:
    world.registry.gate = asyncio.Event()
    assert error(await world.http.get("/v1/clients/c3"))[:2] == (503, "registry_unavailable")


# ---- Zuul's interface


async def zuul(world: World, method: str, client: str = "c1", body: bytes = b"hi", headers: Any = None) -> int:
    sent = {**({"X-CUSTOMER_ID": client} if client else {}), **(headers or {})}
    response = await world.http.request(method, "/push", content=body if method == "POST" else None, headers=sent)
    return response.status_code


async def test_zuul_in_its_order_of_checks(world: World) -> None:
    assert await zuul(world, "PUT", "") == 405
    assert await zuul(world, "POST", "") == 401
    token = {"X-Zuul.push.secure.token": "wrong"}
    assert await zuul(world, "POST", "nobody", headers=token) == 404
    assert await zuul(world, "GET", "nobody") == 404
    assert await zuul(world, "POST", "c1", b"", headers=token) == 403
    assert await zuul(world, "GET", "c1", headers=token) == 403
    right = {"X-Zuul.push.secure.token": SecureTokens(SECRET).token("c3", world.registry.leases["c3"].epoch)}
    assert await zuul(world, "GET", "c3", headers=right) == 200
    assert await zuul(world, "POST", "c3", b"", headers=right) == 204
    assert await zuul(world, "GET", "c1", headers=right) == 403
    assert await zuul(world, "GET", "c1") == 200
    assert await zuul(world, "GET", "c3") == 200
    assert await zuul(world, "POST", "c1", b"") == 204
    assert await zuul(world, "POST", "c3", b"") == 204
    assert world.here.table.got == world.there.table.got == []
    assert await zuul(world, "POST", "c1") == 200
    assert await zuul(world, "POST", "c3") == 200
    assert (len(world.here.table.got), len(world.there.table.got)) == (1, 1)
    assert await zuul(world, "POST", "nobody") == 404


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(Outcome.RATE_LIMITED, 503), (Outcome.DROPPED, 500), (Outcome.REJECTED, 500), (Outcome.OFFLINE, 404)],
)
async def test_zuul_says_what_became_of_it(world: World, outcome: Outcome, status: int) -> None:
    world.here.table.answers["c1"] = outcome
    assert await zuul(world, "POST") == status
    assert world.counted(outcome) == 1


async def test_zuul_text_and_binary(world: World) -> None:
    assert await zuul(world, "POST", body=b"\xff") == 400
    binary = {"Content-Type": "application/octet-stream"}
    assert await zuul(world, "POST", body=b"\xff", headers=binary) == 200
    assert await zuul(world, "POST", body=b"x" * 65537, headers=binary) == 413
    assert await zuul(world, "POST", client="a" * 256) == 400


async def test_zuul_and_the_registry_away(world: World) -> None:
    world.registry.away = True
    assert await zuul(world, "POST", "c1") == 200
    assert await zuul(world, "POST", "c3") == 503
    assert await zuul(world, "GET", "c3") == 503


# ---- health, paths, methods


async def test_health_and_readiness(world: World) -> None:
    assert (await world.http.get("/healthz")).text == "ok\n"
    assert (await world.http.get("/readyz")).json() == {"ready": True, "reason": ""}
    world.not_ready = "registry: connection refused"
    response = await world.http.get("/readyz")
    assert (response.status_code, response.json()["reason"]) == (503, "registry: connection refused")
    assert (await world.http.get("/healthz")).status_code == 200


async def test_metrics_are_served(world: World) -> None:
    await world.push(to={"client": "c1"}, text="x", direct=True)
    response = await world.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'zpush_messages_total{outcome="delivered",priority="normal"} 1.0' in response.text


async def test_answers_are_counted_by_their_status(world: World) -> None:
    """Also those of the parser, of which no call knows."""

    def counted() -> dict[str, int]:
        return {s: n for s in (*API_STATUSES, "other") if (n := world.row.get(f"api_responses_{s}"))}

    await world.push(to={"client": "c1"}, text="x")
    await world.push(to={"client": "c1"}, text="x", direct=True)
    await world.push(to={}, text="x")
    await world.push(to={"client": "c1"}, text="x" * 70_000)
    await world.http.post("/v1/push", content=b"{}", headers={"Content-Type": "text/plain"})
    await world.http.get("/v1/nodes", headers={"Host": "evil.example"})
    assert await zuul(world, "POST", "c1", body=b"") == 204
    world.queue.refuse["*"] = QueueFull("full")
    await world.push(to={"client": "c1"}, text="x")
    ours = {200: 1, 202: 1, 204: 1, 400: 1, 403: 1, 413: 1, 415: 1, 503: 1}
    assert counted() == ours
    for head, status in {
        b"GET / HTTP/1.1\r\n\r\n": 400,
        b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"x" * 9000: 431,
        b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip\r\n\r\n": 501,
    }.items():
        async with connected(world.port) as client:
            client.send(head)
            assert (await client.answer()).status == status
    assert counted() == {**ours, 400: 2, 431: 1, "other": 1}
    text = (await world.http.get("/metrics")).text
    assert 'zpush_api_responses_total{status="431"} 1.0' in text
    assert 'zpush_api_responses_total{status="other"} 1.0' in text


async def test_unknown_paths_and_methods(world: World) -> None:
    assert error(await world.http.get("/v2/push"))[:2] == (404, "not_found")
    assert error(await world.http.get("/../../etc/passwd"))[:2] == (404, "not_found")
    response = await world.http.get("/v1/push")
    assert error(response)[:2] == (405, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    assert (await world.http.options("/v1/push")).status_code == 405
    assert (await world.http.head("/v1/nodes")).status_code == 200


async def test_the_demo_page_belongs_to_embedded_mode(world: World) -> None:
    away = replace(SETTINGS.registry, url="redis://127.0.0.1"), replace(SETTINGS.queue, url="redis://127.0.0.1")
    async with api_world(replace(SETTINGS, registry=away[0], queue=away[1])) as plain:
        assert (await plain.http.get("/")).status_code == 404


async def test_pages_are_the_files_of_their_folder_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("no")
    web = tmp_path / "web"
    (web / "sub").mkdir(parents=True)
    for name in ("index.html", "zpush.js", "sub/a.css", "notes.md"):
        (web / name).write_text(name)
    (tmp_path / "outside.js").write_text("no")
    pages = load_pages(web)
    assert set(pages) == {"/", "/index.html", "/zpush.js", "/sub/a.css"}
    async with (
        serving(lambda request: pages.get(request.path) or error_response(404, "not_found", "")) as (_, port),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
    ):
        page = await http.get("/")
        assert (page.text, page.headers["content-type"]) == ("index.html", "text/html; charset=utf-8")
        assert (page.headers["x-frame-options"], page.headers["x-content-type-options"]) == ("DENY", "nosniff")
        assert (await http.get("/zpush.js")).headers["content-type"].startswith("text/javascript")
        for path in ("/%2e%2e/secret", "/sub", "/notes.md", "/../outside.js"):
            assert (await http.get(path)).status_code == 404


# ---- who may call


@pytest.fixture
async def keyed() -> AsyncIterator[World]:
    async with api_world(with_api(keys=(KEY, KEY + "-2"), bind="0.0.0.0:0")) as world:
        yield world


@pytest.mark.parametrize(
    ("authorization", "allowed"),
    [
        (f"Bearer {KEY}", True),
        (f"bearer {KEY}-2", True),
        (f"Bearer {KEY}-3", False),
        (f"Bearer {KEY[:-1]}", False),
        (f"Basic {KEY}", False),
        ("Bearer", False),
        (KEY, False),
        (None, False),
    ],
)
async def test_keys(keyed: World, authorization: str | None, allowed: bool) -> None:
    headers = {"Authorization": authorization} if authorization is not None else {}
    for path in ("/v1/nodes", "/metrics", "/v1/clients/c1"):
        response = await keyed.http.get(path, headers=headers)
        assert response.status_code == (200 if allowed else 401)
        assert KEY not in response.text
    push = await keyed.http.post("/v1/push", json={"to": {"client": "c1"}, "text": "x"}, headers=headers)
    assert push.status_code == (202 if allowed else 401)
    assert len(keyed.queue.messages) == (1 if allowed else 0)
    assert (await keyed.http.get("/healthz", headers=headers)).status_code == 200


async def test_a_second_authorization_header_is_never_the_one_believed(keyed: World) -> None:
    headers = [("Authorization", "Bearer wrong"), ("Authorization", f"Bearer {KEY}")]
    assert (await keyed.http.get("/v1/nodes", headers=headers)).status_code == 401


async def test_with_a_key_any_host_origin_and_content_type_will_do(keyed: World) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Host": "push.example", "Origin": "https://a.example"}
    body = b'{"to":{"client":"c1"},"text":"x"}'
    assert (await keyed.http.post("/v1/push", content=body, headers=headers)).status_code == 202


async def test_a_refused_sender_is_told_before_the_body(keyed: World) -> None:
    async with connected(keyed.port) as client:
        client.send(b"POST /v1/push HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 60000\r\n\r\n")
        assert (await client.answer()).status == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Host": "localhost:8081"}, 202),
        ({"Host": "127.9.9.9"}, 202),
        ({"Host": "[::1]:8081"}, 202),
        ({"Host": "[::1]"}, 202),
        ({"Host": "localhost:"}, 202),
        ({"Host": "[::1]evil"}, 403),
        ({"Host": "[::1]evil:8081"}, 403),
        ({"Host": "[::1].evil.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "localhost:8081.evil.example"}, 403),
        ({"Host": "localhost:8081@evil.example"}, 403),
        ({"Host": "127.0.0.1:8081:8081"}, 403),
        ({"Host": ":8081"}, 403),
        ({"Host": "localhost:8081", "Origin": "http://localhost:8081"}, 202),
        ({"Host": "evil.example:8081"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
        ({"Host": "localhost:8081", "Origin": "http://localhost:3000"}, 403),
        ({"Host": "localhost:8081", "Origin": "https://evil.example"}, 403),
        ({"Host": "localhost:8081", "Origin": "null"}, 403),
        ({"Content-Type": "application/json; charset=utf-8"}, 202),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": ""}, 415),
    ],
)
async def test_without_keys_pages_of_others_may_not_push(world: World, headers: dict[str, str], status: int) -> None:
    sent = {"Content-Type": "application/json", **headers}
    response = await world.http.post("/v1/push", content=b'{"to":{"client":"c1"},"text":"x"}', headers=sent)
    assert response.status_code == status
    assert len(world.queue.messages) == (status == 202)


async def test_without_keys_pages_of_others_may_not_read(world: World) -> None:
    for path in ("/v1/nodes", "/metrics", "/v1/clients/c1"):
        assert (await world.http.get(path, headers={"Host": "evil.example"})).status_code == 403
        assert (await world.http.get(path, headers={"Origin": "http://evil.example"})).status_code == 403


def test_an_api_that_others_reach_needs_a_key() -> None:
    with pytest.raises(ValueError, match="key"):
        Guard((), "0.0.0.0")
    Guard((KEY,), "0.0.0.0")
    Guard((), "127.0.0.1")


@pytest.mark.parametrize(
    ("purpose", "allowed"),
    [
        ("", {"push", "zuul push", "zuul presence", "read", "operate"}),
        ("push", {"push", "zuul push", "zuul presence"}),
        ("read", {"zuul presence", "read"}),
        ("operate", {"zuul presence", "read", "operate"}),
    ],
)
async def test_a_key_may_be_for_one_purpose_only(purpose: str, allowed: set[str]) -> None:
    entry = f"{purpose}:{KEY}" if purpose else KEY
    settings = with_api(keys=(entry, "read:another-key-of-sixteen"))
    async with api_world(settings, Authorization=f"Bearer {KEY}") as world:
        answers = {
            "push": (await world.http.post("/v1/push", json={"to": {"client": "c1"}, "text": "x"})).status_code,
            "zuul push": await zuul(world, "POST", "c1"),
            "zuul presence": await zuul(world, "GET", "c1"),
            "read": (await world.http.get("/v1/nodes")).status_code,
            "operate": (await world.http.delete("/v1/clients/nobody")).status_code,
        }
    assert {name for name, status in answers.items() if status != 403} == allowed
    assert 401 not in answers.values()
