"""Clients, users and nodes over real HTTP."""

from __future__ import annotations

import asyncio

import pytest
from msgspec import structs

from tests.server.api_world import World, error


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
