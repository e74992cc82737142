"""Direct pushes over real HTTP: their outcomes, while the registry, owners or leases are away too."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from msgspec import structs

from tests.server.api_world import World, error, outcomes, zuul
from tests.server.raw_http import connected
from tests.support import eventually
from zpush.protocol.message import Outcome, Priority
from zpush.registry.base import NodeState
from zpush.server import direct


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
