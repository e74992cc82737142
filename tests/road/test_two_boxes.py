"""Two boxes on one Valkey: who holds a client when boxes freeze, die or leave, and when news comes late.

A box here is a whole `zpush serve` of one worker; queue and processor are the second one's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from tests.road.api import Api
from tests.road.devices import Connect, Device
from tests.road.server import Serve, Server
from tests.store.proxy import proxied
from tests.support import Valkey, eventually

LONG = "registry.node_ttl=5m"  # what happens sooner does not come from a key that ran out
REPLACED = 4002
CROWD = 100  # with so many, a lease's turn to be renewed comes once in that many seconds

Boxes = Callable[..., AsyncIterator["Pair"]]


class Pair:
    def __init__(self, one: Server, two: Server, apis: tuple[Api, Api]) -> None:
        self.one = one
        self.two = two
        self.api_one, self.api_two = apis

    async def nodes(self) -> list[str]:
        """The boxes that the second one knows, by their workers' addresses."""
        return [node["address"] for node in (await self.api_two.get("/v1/nodes"))["nodes"]]


@contextlib.asynccontextmanager
async def pair(serve: Serve, valkey: Valkey, *settings: str, registry_of_one: str = "") -> AsyncIterator[Pair]:
    secret = "peers.secret=a-secret-of-both-boxes-of-this-test"
    common = ("auth.mode=dev", "server.workers=1", f"queue.url={valkey.url}", secret, *settings)
    two = await asyncio.to_thread(serve, *common, f"registry.url={valkey.url}")
    one = await asyncio.to_thread(
        serve, *common, f"registry.url={registry_of_one or valkey.url}", "processor.instances=0"
    )
    async with Api(one.api) as api_one, Api(two.api) as api_two:
        yield Pair(one, two, (api_one, api_two))


def address(server: Server) -> str:
    status = server.status()
    assert status is not None
    return str(status["addresses"]["peers"][0])


async def reached(api: Api, device: Device, text: str) -> None:
    assert await api.direct(device.client_id, text) == "delivered"
    assert await device.receive() == text


# ---- boxes that are not there


async def test_a_box_that_was_frozen_past_its_node_lease_gives_up_who_went_elsewhere(
    serve: Serve, valkey: Valkey, connect: Connect
) -> None:
    async with pair(serve, valkey, "registry.node_ttl=2s") as boxes:
        await asyncio.gather(*(connect(boxes.one, f"idle{i}") for i in range(CROWD)))
        older, stays = await connect(boxes.one, "moves"), await connect(boxes.one, "stays")
        frozen = address(boxes.one)
        with boxes.one.frozen():

            async def dead() -> bool:
                return frozen not in await boxes.nodes()

            await eventually(dead, "its key runs out")
            assert not await boxes.api_two.holds("moves")
            assert await boxes.api_two.direct("moves", "nobody is there") == "offline"
            newer = await connect(boxes.two, "moves")
            await reached(boxes.api_two, newer, "while the other box is frozen")
        assert await older.close_code() == REPLACED

        async def back() -> bool:
            return frozen in await boxes.nodes()

        await eventually(back, "it lives again, under the same name")
        for api in (boxes.api_one, boxes.api_two):
            await reached(api, newer, "from either box")
            await reached(api, stays, "whose lease nobody took")
        await boxes.api_two.push({"client": "moves"}, text="queued")
        assert await newer.receive() == "queued"


async def test_the_clients_of_a_killed_box_are_offline_at_once(serve: Serve, valkey: Valkey, connect: Connect) -> None:
    """Where its kernel still answers, nobody waits for a key to run out: the first who is refused tells all."""
    async with pair(serve, valkey, LONG) as boxes:
        killed = address(boxes.one)
        device, other = await connect(boxes.one, "away"), await connect(boxes.two, "here")
        await asyncio.to_thread(boxes.one.kill_all)
        assert await device.close_code() is None
        assert await boxes.api_two.direct("away", "are you there?") == "offline"
        assert killed not in await boxes.nodes()
        assert not await boxes.api_two.holds("away")
        await boxes.api_two.push({"client": "away"}, text="queued")
        await boxes.api_two.until_counted("zpush_messages_total", 2, outcome="offline")
        await reached(boxes.api_two, other, "it goes on")


async def test_the_clients_of_a_stopped_box_are_offline_at_once(serve: Serve, valkey: Valkey, connect: Connect) -> None:
    async with pair(serve, valkey, LONG, "server.drain_window=0s") as boxes:
        left = address(boxes.one)
        device = await connect(boxes.one, "away")
        assert await asyncio.to_thread(boxes.one.stop) == 0
        assert await device.close_code() == 1001
        assert await boxes.nodes() == [address(boxes.two)] != [left]
        assert not await boxes.api_two.holds("away")
        assert await boxes.api_two.direct("away", "are you there?") == "offline"


# ---- handshakes that cross


async def test_of_two_handshakes_at_once_one_connection_stays(serve: Serve, valkey: Valkey, connect: Connect) -> None:
    async with pair(serve, valkey) as boxes:
        for number in range(20):
            name = f"twin{number}"
            twins = await asyncio.gather(connect(boxes.one, name), connect(boxes.two, name))
            waits = [asyncio.create_task(twin.connection.wait_closed()) for twin in twins]
            await asyncio.wait(waits, timeout=10, return_when=asyncio.FIRST_COMPLETED)
            [stays] = [twin for twin, wait in zip(twins, waits, strict=True) if not wait.done()]
            [gone] = [twin for twin in twins if twin is not stays]
            assert gone.connection.close_code == REPLACED
            for api in (boxes.api_one, boxes.api_two):
                await reached(api, stays, "the one that stays")
            for wait in waits:
                wait.cancel()


@pytest.mark.parametrize("how", ["late", "given up", "lost"])
async def test_a_registration_that_comes_late_takes_nothing_from_a_newer_one(
    serve: Serve, valkey: Valkey, connect: Connect, how: str
) -> None:
    """The first box opens without a lease while its registry stalls. Its registration arrives after the newer one; when

    the box has given up on it; or never.
    """
    async with (
        proxied(valkey.socket_path) as proxy,
        pair(serve, valkey, LONG, registry_of_one=f"redis://127.0.0.1:{proxy.port}") as boxes,
    ):
        written = len(proxy.writes)
        proxy.stall()
        older = await connect(boxes.one, "hops", known_as="")
        newer = await connect(boxes.two, "hops")
        await reached(boxes.api_two, newer, "before")
        if how == "given up":
            await eventually(lambda: away(boxes.api_one), "the first box takes its registry for dead")
        if how == "lost":
            proxy.end()
        proxy.resume()
        assert await older.close_code() == REPLACED
        assert how == "lost" or any(b"hops" in write for write in proxy.writes[written:])
        for api in (boxes.api_one, boxes.api_two):
            await eventually(lambda api=api: holder(api, "hops", boxes.two), "the newer one has the lease")
            await reached(api, newer, "after")


async def away(api: Api) -> bool:
    return (await api.http.get("/readyz")).status_code == 503


async def holder(api: Api, client_id: str, server: Server) -> bool:
    response = await api.http.get(f"/v1/clients/{client_id}")
    return response.status_code == 200 and response.json()["address"] == address(server)
