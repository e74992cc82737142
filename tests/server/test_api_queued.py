"""Queued pushes over real HTTP: taken or refused, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.api_world import World, error
from zpush.errors import QueueFull, QueueUnavailable
from zpush.protocol.message import Kind, Priority, Target


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
    assert error(await world.push(to={"client": "c1"}, text="x" * 65537)) == (413, "too_large", "text")
    assert error(await world.push(to={"client": "c1"}, text="x" * (10 << 20)))[0] == 413
    assert len(world.queue.messages) == 1


async def test_a_push_is_never_taken_twice_from_a_body_with_two_values(world: World) -> None:
    body = b'{"to":{"client":"c1"},"text":"1"}'
    response = await world.http.post("/v1/push", content=body + body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert world.queue.messages == []
