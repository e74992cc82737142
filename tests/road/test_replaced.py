"""The newer connection of a client wins, wherever the older one is; who was replaced stays away."""

from __future__ import annotations

import httpx
import pytest

from tests.road.api import Api
from tests.road.devices import Connect, open_stream
from tests.road.server import Server


@pytest.mark.parametrize("same", [True, False], ids=["on the same worker", "across workers"])
async def test_the_older_connection_is_closed(
    server: Server, api: Api, connect: Connect, name: str, same: bool
) -> None:
    older, worker = await connect(server, name), await api.worker_of(name)
    for _ in range(64):  # the kernel decides which worker gets a connection
        newer = await connect(server, name)
        before, worker = worker, await api.worker_of(name)
        assert await older.close_code() == 4002
        assert await api.direct(name, "for the newer") == "delivered"
        assert await newer.receive() == "for the newer"
        older = newer
        if (worker == before) == same:
            return
    raise AssertionError("the kernel did not do that in 64 tries")


async def test_the_end_of_the_older_one_does_not_take_the_newer_ones_lease(
    server: Server, api: Api, connect: Connect, name: str
) -> None:
    """Hand over hand, many times: the client is reachable all the while."""
    device = await connect(server, name)
    for number in range(20):
        newer = await connect(server, name)
        await device.close()  # while the server closes it, too
        assert await api.direct(name, str(number)) == "delivered"
        assert await newer.receive() == str(number)
        device = newer


@pytest.mark.parametrize("same", [True, False], ids=["on the same worker", "across workers"])
async def test_an_event_stream_that_was_replaced_is_answered_204(
    server: Server, api: Api, name: str, same: bool
) -> None:
    for _ in range(64):
        async with open_stream(server, name) as older:
            before = await api.worker_of(name)
            async with open_stream(server, name) as newer:
                worker = await api.worker_of(name)
                [event] = await older.rest()
                assert (event.event, event.data) == ("close", "4002")
                await come_back(server, name, event.id, 204)
                assert await api.direct(name, "for the newer") == "delivered"
                assert (await newer.receive()).data == "for the newer"
        if (worker == before) == same:
            return
    raise AssertionError("the kernel did not do that in 64 tries")


async def come_back(server: Server, client_id: str, last_event_id: str, status: int) -> None:
    """As an EventSource does by itself."""
    async with httpx.AsyncClient(base_url=f"http://{server.clients}", trust_env=False) as client:
        response = await client.get("/sse", params={"client": client_id}, headers={"Last-Event-ID": last_event_id})
        assert response.status_code == status


async def test_a_websocket_replaces_an_event_stream_and_the_other_way_round(
    server: Server, api: Api, connect: Connect, name: str
) -> None:
    async with open_stream(server, name) as stream:
        device = await connect(server, name)
        assert [event.data for event in await stream.rest()] == ["4002"]
        async with open_stream(server, name) as again:
            assert await device.close_code() == 4002
            assert await api.direct(name, "hello") == "delivered"
            assert (await again.receive()).data == "hello"


async def test_messages_queued_during_replacements_arrive_at_one_of_them(
    server: Server, api: Api, connect: Connect, name: str
) -> None:
    """The reader takes what its connection got before the end of it, then goes on with the newer one."""
    device = await connect(server, name)
    found = []
    for number in range(20):
        await api.push({"client": name}, text=str(number))
        newer = await connect(server, name)
        found += await device.rest()
        device = newer
    await api.push({"client": name}, text="last")
    found += await device.receive_until("last")
    assert found == [*map(str, range(20)), "last"]
