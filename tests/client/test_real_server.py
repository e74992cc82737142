"""zpush.Client and a real `zpush serve` of two workers whose connections live for a second or two.

Half of all hand-overs go to the other worker, which is where a message could be missed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

import pytest

from tests.client.servers import States, take
from tests.client.test_ends import TRANSPORTS, Transport
from tests.road.api import Api
from tests.road.server import Serve, Server
from tests.support import eventually, free_port
from zpush.client import Client, State, Stopped

# A second would do to hand over on a quiet machine; the grace is over sooner where the client is.
SETTINGS = ("connections.max_age=1s", "connections.max_age_jitter=0s", "connections.go_away_grace=4s")
HAND_OVERS = 3


KINDS: dict[str, dict[str, Any]] = {
    "zpush.v1": {"ack": True},
    "zpush.raw": {"protocol": "zpush.raw"},
    "sse": {"transport": "sse"},
}


class _Early(Random):
    """Where the go-away names no delay, the client's own is half a second: well within the grace."""

    def random(self) -> float:
        return 0.25


async def test_nothing_is_missed_doubled_or_out_of_order_over_hand_overs(server: Server, api: Api) -> None:
    await asyncio.gather(*(_push_through_hand_overs(server, api, kind) for kind in KINDS))


async def _push_through_hand_overs(server: Server, api: Api, kind: str) -> None:
    """One message after the other, each delivered before the next is sent."""
    states, outcomes, name = States(), Counter[str](), f"steady-{kind}"
    sent, got = 0, list[str]()
    client = Client(
        f"ws://{server.clients}",
        client_id=name,
        on_message=lambda message: got.append(message.data),
        on_state=states,
        rng=_Early(),
        **KINDS[kind],
    )
    async with client, asyncio.timeout(60):
        await client.wait_open()
        while states.told.count(State.OPEN) <= HAND_OVERS:
            outcomes[await api.direct(name, str(sent))] += 1
            sent += 1
        await eventually(lambda: len(got) >= sent, "the last message")
    assert outcomes == {"delivered": sent}
    assert got == [str(i) for i in range(sent)]
    assert set(states.told) == {State.CONNECTING, State.OPEN, State.HANDING_OVER, State.STOPPED}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_replaced_and_disconnected(server: Server, api: Api, transport: Transport) -> None:
    url, name = f"ws://{server.clients}", f"ends-{transport}"
    async with Client(url, client_id=name, transport=transport) as first:
        await first.wait_open()
        async with Client(url, client_id=name, transport=transport) as second:
            await second.wait_open()
            with pytest.raises(Stopped) as stopped:
                await take(first, 1)
            assert stopped.value.code == 4002
            assert (await api.http.delete(f"/v1/clients/{name}")).status_code == 200
            with pytest.raises(Stopped) as stopped:
                await take(second, 1)
            assert stopped.value.code == 4005


async def test_binary_json_and_text(server: Server, api: Api) -> None:
    async with (
        Client(f"ws://{server.clients}", client_id="kinds-ws") as socket,
        Client(f"ws://{server.clients}", client_id="kinds-sse", transport="sse") as stream,
    ):
        await socket.wait_open()
        await stream.wait_open()
        to = {"clients": ["kinds-ws", "kinds-sse"]}
        ids = [
            (await api.push(to, text="two\r\nlines"))["id"],
            (await api.push(to, data={"a": [1, None]}))["id"],
            (await api.push(to, base64="AP8="))["id"],
        ]
        from_socket = [await anext(socket) for _ in range(3)]
        from_stream = [await anext(stream) for _ in range(3)]
    assert {m.id for m in from_socket} == {m.id for m in from_stream} == set(ids)
    assert [m.data for m in from_socket] == ["two\r\nlines", {"a": [1, None]}, b"\x00\xff"]
    assert [m.data for m in from_stream] == ["two\nlines", '{"a":[1,null]}', b"\x00\xff"]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_server_that_is_restarted(serve: Serve, transport: Transport) -> None:
    """TERM, and a new run on the same port: the client is asked to go, finds nobody, and comes back."""
    states = States()
    server = serve(f"server.bind=127.0.0.1:{free_port()}")

    async def sleep(delay_s: float) -> None:
        await asyncio.sleep(min(delay_s, 0.2))  # Retry-After may be ten seconds

    url = f"ws://{server.clients}"
    async with Client(url, client_id="c", transport=transport, on_state=states, sleep=sleep) as client:
        await client.wait_open()
        assert await asyncio.to_thread(server.stop) == 0
        await eventually(lambda: client.state in (State.WAITING, State.CONNECTING), "the client has noticed")
        opened = states.told.count(State.OPEN)
        await asyncio.to_thread(server.start)
        await states.reached(State.OPEN, opened + 1)
        async with Api(server.api) as api:
            assert await api.direct("c", "back") == "delivered"
            assert await take(client, 1) == ["back"]
