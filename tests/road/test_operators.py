"""What operators ask and do: who is where, disconnect, is it well, what was counted."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from urllib.parse import quote

import httpx
import pytest

from tests.road.api import Api
from tests.road.devices import Connect, Spread, open_stream
from tests.road.server import Serve, Server
from tests.support import eventually
from zpush.protocol.message import Priority


async def test_a_lease_names_the_worker_that_holds_the_client(server: Server, api: Api, spread: Spread) -> None:
    answer = await api.get("/v1/nodes")
    assert answer["registry"] == {"server": server.queue_url[7:], "role": "master", "replicas": 0, "reason": ""}
    nodes = {node["node"]: node for node in answer["nodes"]}
    assert [node["pid"] for node in nodes.values()] == [server.pid_of("workers", slot) for slot in (0, 1)]
    for slot, device in enumerate(await spread(server, "u1")):
        lease = await api.get(f"/v1/clients/{device.client_id}")
        assert (lease["client"], lease["user"], lease["worker"]) == (device.client_id, "u1", slot)
        assert lease["address"] == nodes[lease["node"]]["address"]
        assert abs(time.time() * 1000 - lease["since_ms"]) < 60_000


async def test_status_says_what_the_registry_knows(server: Server) -> None:
    """It finds the API by itself, and the key for it: a port of the kernel's choice stands in the master's answer."""
    asking = server.spawn("-m", "zpush", "status", "--json", stdout=subprocess.PIPE)
    registry = json.loads((await asyncio.to_thread(asking.communicate, timeout=30))[0])["registry"]
    assert registry.pop("connections") >= 0
    assert registry == {
        "server": server.queue_url[7:], "role": "master", "replicas": 0, "reason": "",
        "workers": 2, "boxes": 1, "dirty_leases": 0,
    }  # fmt: skip


async def test_an_id_may_hold_anything_printable(server: Server, api: Api, connect: Connect) -> None:
    strange = "ü/ ?#%2F\N{SNOWMAN}"
    device = await connect(server, strange, "a user")
    assert (await api.get(f"/v1/clients/{quote(strange, safe='')}"))["user"] == "a user"
    assert await api.direct(strange, "hello") == "delivered"
    assert await device.receive() == "hello"


async def test_a_user_shows_its_live_clients_only(server: Server, api: Api, spread: Spread, name: str) -> None:
    first, second = await spread(server, f"{name}-user")

    async def shown() -> set[str]:
        return {each["client"] for each in (await api.get(f"/v1/users/{name}-user"))["clients"]}

    assert {first.client_id, second.client_id} <= await shown()
    await first.close()

    async def only_the_second() -> bool:
        return await shown() == {second.client_id}

    await eventually(only_the_second, "a closed client is no longer shown")
    assert (await api.get(f"/v1/users/{name}-nobody"))["clients"] == []


async def test_disconnected_clients_are_told_to_stay_away(server: Server, api: Api, spread: Spread) -> None:
    for device in await spread(server):
        response = await api.http.delete(f"/v1/clients/{device.client_id}")
        assert response.status_code == 200
        assert await device.close_code() == 4005
        assert await api.direct(device.client_id, "gone") == "offline"
        assert (await api.http.delete(f"/v1/clients/{device.client_id}")).status_code == 404


async def test_a_disconnected_user_loses_all_its_devices(
    server: Server, api: Api, spread: Spread, connect: Connect, name: str
) -> None:
    devices = await spread(server, name)
    other = await connect(server, f"{name}-other", f"{name}-other")
    response = await api.http.delete(f"/v1/users/{name}")
    assert response.json() == {"user": name, "disconnected": 2}
    assert [await device.close_code() for device in devices] == [4005, 4005]
    assert (await api.http.delete(f"/v1/users/{name}")).status_code == 404
    assert await api.direct(other.client_id, "still here") == "delivered"


async def test_a_disconnected_event_stream_is_told_and_ended(server: Server, api: Api, name: str) -> None:
    async with open_stream(server, name) as stream:
        assert (await api.http.delete(f"/v1/clients/{name}")).status_code == 200
        [event] = await stream.rest()
        assert (event.event, event.data) == ("close", "4005")


@pytest.mark.parametrize("path", ["/healthz", "/healthcheck", "/readyz"])
async def test_load_balancers_are_answered_on_the_clients_port(server: Server, path: str) -> None:
    async with httpx.AsyncClient(base_url=f"http://{server.clients}", trust_env=False) as client:
        response = await client.get(path)
        assert (response.status_code, response.text) == (200, "ok\n")
        assert (await client.head(path)).status_code == 200
        assert (await client.post(path)).status_code == 405


async def test_health_and_readiness_on_the_api(server: Server, api: Api) -> None:
    assert (await api.http.get("/healthz")).status_code == 200
    assert await api.get("/readyz") == {"ready": True, "reason": ""}


async def test_the_demo_page_is_on_the_apis_port(server: Server, api: Api) -> None:
    response = await api.http.get("/")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/html")


async def test_refusals_of_the_clients_port(server: Server) -> None:
    async with httpx.AsyncClient(base_url=f"http://{server.clients}", trust_env=False) as client:
        assert (await client.get("/nowhere")).status_code == 404
        assert (await client.post("/ws?client=c")).status_code == 405
        assert (await client.get("/sse")).status_code == 401
        assert (await client.get("/sse?client=c", headers={"Origin": "http://evil.example"})).status_code == 400
        response = await client.get("/ws?client=c")
        assert response.status_code == 426
        assert response.headers["Sec-WebSocket-Version"] == "13"
        assert (await client.get(f"/ws?client={'c' * 9000}")).status_code == 431


async def test_what_comes_out_is_what_went_in(serve: Serve, connect: Connect) -> None:
    """A server of its own: every counter is this test's."""
    server = serve()
    async with Api(server.api) as api:
        for number in range(8):
            await connect(server, f"c{number}", f"u{number % 2}")
        async with open_stream(server, "stream"):
            for priority in Priority:
                clients = ["c0", "c1", "stream", "nobody"]
                await api.push({"clients": clients}, text="queued", priority=priority.label)
                await api.push({"client": "c2"}, text="queued", priority=priority.label, ttl="60s")
                await api.push({"clients": clients}, text="direct", direct=True, priority=priority.label)
            server.until(lambda status: sum(status["totals"]["outcomes"].values()) >= 27, "27 outcomes")
            metrics = await api.metrics()
            assert metrics.total("zpush_connections", transport="websocket") == 8
            assert metrics.total("zpush_connections", transport="sse") == 1
        for priority in Priority:
            assert metrics.total("zpush_published_total", priority=priority.label) == 5
            assert metrics.total("zpush_taken_total", priority=priority.label) == 9
            for outcome, number in (("delivered", 7), ("offline", 2), ("expired", 0), ("dropped", 0)):
                found = metrics.total("zpush_messages_total", outcome=outcome, priority=priority.label)
                assert found == number, (outcome, priority)
        assert metrics.total("zpush_messages_total") == 27
        assert metrics.total("zpush_redelivered_total") == metrics.total("zpush_dead_total") == 0
        assert metrics.total("zpush_handshakes_total", result="ok") == 9
        assert metrics.total("zpush_delivery_seconds_count") == 12
        assert metrics.total("zpush_registry_up") == metrics.total("zpush_queue_up") == 1
        assert metrics.total("zpush_processes", ready="1") == 3
        assert metrics.total("zpush_unsent_bytes") == 0


async def test_engine_memory_is_shown(server: Server, api: Api, connect: Connect, name: str) -> None:
    await connect(server, name)

    async def shown() -> bool:
        return (await api.metrics()).total("zpush_engine_memory_bytes") > 0

    await eventually(shown, "the gauge is written every second")


async def test_a_queue_that_was_worked_off_is_empty(server: Server, api: Api, name: str) -> None:
    await api.push({"client": name}, text="nobody")

    async def empty() -> bool:
        metrics = await api.metrics()
        return metrics.total("zpush_queue_lag_messages") == metrics.total("zpush_queue_age_seconds") == 0

    await eventually(empty, "nothing waits")


async def test_what_waits_is_shown(serve: Serve) -> None:
    server = serve("processor.instances=0")
    async with Api(server.api) as api:
        await api.push({"clients": ["a", "b", "c"]}, text="waits", priority="low")
        metrics = await api.until_counted("zpush_queue_lag_messages", 3)
        assert metrics.total("zpush_queue_lag_messages", priority="low") == 3

        async def ages() -> bool:  # in milliseconds, of which the first look may see none
            return (await api.metrics()).total("zpush_queue_age_seconds", priority="low") > 0

        await eventually(ages, "what waits grows older")


async def test_a_full_queue_tells_the_sender(serve: Serve) -> None:
    server = serve("processor.instances=0", "queue.max_messages=8", "queue.partitions=1")
    async with Api(server.api) as api:
        for _ in range(8):
            await api.push({"client": "c"}, text="waits")
        response = await api.http.post("/v1/push", json={"to": {"client": "c"}, "text": "too many"})
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "queue_full"
        assert "Retry-After" in response.headers
        await api.push({"client": "c"}, text="another priority", priority="high")
