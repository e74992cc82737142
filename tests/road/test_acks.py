"""What zpush.v1 adds: pushes that wait for the client's own word, pushes that name one connection, pings."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.auth.tokens import KEY
from tests.road.api import Api
from tests.road.devices import Connect, Device, Spread, open_device, open_spread, open_stream
from tests.road.raw import found
from tests.road.server import Serve, Server
from tests.support import run_zpush
from zpush.auth import jwt


async def ack_next(device: Device) -> None:
    message = await device.receive_json()
    await device.connection.send(json.dumps({"ack": message["id"]}))


async def push(api: Api, client: str, **fields: Any) -> tuple[int, Any]:
    body = {"to": {"client": client}, "text": "hi", "direct": True, **fields}
    answer = await api.http.post("/v1/push", json=body)
    return answer.status_code, answer.json()


async def test_acked_across_workers(server: Server, api: Api, spread: Spread) -> None:
    before = await api.metrics()
    for device in await spread(server, subprotocols=["zpush.v1"]):
        client = device.client_id
        (status, answer), _ = await asyncio.gather(push(api, client, wait_ack=5), ack_next(device))
        assert (status, answer["outcomes"]) == (200, [{"client": client, "outcome": "acked"}])
    metrics = await api.metrics()
    for name in ("zpush_acks_total", "zpush_ack_seconds_count"):
        assert metrics.total(name) - before.total(name) == 2


@pytest.mark.slow
async def test_a_wait_that_is_longer_than_a_write_buffers_breaks_no_link_between_workers(
    serve: Serve, stack: contextlib.AsyncExitStack, name: str
) -> None:
    """Peers give up what waits longer than connections.unsent_age and 5 s; an ack has its own time on top."""
    server = serve("connections.unsent_age=1s")
    async with Api(server.api) as api:
        devices = await open_spread(server, name, subprotocols=["zpush.v1"])
        for device in devices:
            stack.push_async_callback(device.close)
        answers = await asyncio.gather(*(push(api, device.client_id, wait_ack=8.5) for device in devices))
    assert [answer["outcomes"][0]["outcome"] for _, answer in answers] == ["delivered", "delivered"]
    assert not server.logged("lost a peer")


async def test_without_an_ack_it_is_delivered(server: Server, api: Api, connect: Connect, name: str) -> None:
    await connect(server, name, subprotocols=["zpush.v1"])
    _, answer = await push(api, name, wait_ack=0.1)
    assert answer["outcomes"] == [{"client": name, "outcome": "delivered"}]


async def test_nobody_waits_for_a_client_that_has_left(server: Server, api: Api, spread: Spread) -> None:
    async def leave(device: Device) -> None:
        await device.receive_json()
        await device.close()

    for device in await spread(server, subprotocols=["zpush.v1"]):
        async with asyncio.timeout(20):  # of the 30 that the sender would wait
            (_, answer), _ = await asyncio.gather(push(api, device.client_id, wait_ack=30), leave(device))
        assert answer["outcomes"][0]["outcome"] == "delivered"


async def test_nobody_waits_for_a_client_that_cannot_ack(
    server: Server, api: Api, spread: Spread, connect: Connect, name: str
) -> None:
    await connect(server, f"{name}-raw", subprotocols=["zpush.raw"])
    async with open_stream(server, f"{name}-stream"), asyncio.timeout(20):
        spread_out = [device.client_id for device in await spread(server)]
        for client_id in (*spread_out, f"{name}-raw", f"{name}-stream"):
            _, answer = await push(api, client_id, wait_ack=30)
            assert answer["outcomes"][0]["outcome"] == "delivered"


async def test_acks_of_what_nobody_waits_for_are_counted_apart(
    server: Server, api: Api, connect: Connect, name: str
) -> None:
    device = await connect(server, name, subprotocols=["zpush.v1"])
    before = await api.metrics()
    await device.connection.send(json.dumps({"ack": "never sent"}))
    counted = {answer: before.total("zpush_acks_total", awaited=answer) for answer in ("yes", "no")}
    after = await api.until_counted("zpush_acks_total", counted["no"] + 1, awaited="no")
    assert after.total("zpush_acks_total", awaited="yes") == counted["yes"]


@pytest.mark.parametrize("value", [1, "x", None, {"since": [1, 2.5]}])
async def test_a_ping_comes_back(server: Server, connect: Connect, name: str, value: Any) -> None:
    """For browsers, which cannot send the other kind."""
    device = await connect(server, name, subprotocols=["zpush.v1"])
    await device.connection.send(json.dumps({"ping": value}))
    assert await device.receive_json() == {"pong": value}


async def test_what_is_no_control_message_comes_back_where_echo_is_wanted(serve: Serve, connect: Connect) -> None:
    device = await connect(serve("connections.inbound=echo"), "echoed", subprotocols=["zpush.v1"])
    sent = ["hello", '{"x":1}', "[1]", b"\0\1", ""]
    for message in sent:
        await device.connection.send(message)
    assert [await device.receive() for _ in sent] == sent
    await device.connection.send('{"ping":7}')
    assert await device.receive_json() == {"pong": 7}


@pytest.mark.parametrize(
    "fields",
    [{"wait_ack": 31}, {"wait_ack": 0}, {"wait_ack": -1}, {"wait_ack": 1, "direct": False}, {"secure_token": ""}],
    ids=["too long", "zero", "negative", "queued", "no token"],
)
async def test_what_cannot_be_meant_is_400(server: Server, api: Api, fields: dict[str, Any]) -> None:
    status, answer = await push(api, "c", **fields)
    assert status == 400
    assert answer["error"]["field"] == next(iter(fields))


async def test_a_secure_token_is_the_connections(server: Server, api: Api, connect: Connect, name: str) -> None:
    device = await connect(server, name, subprotocols=["zpush.v1"], secure_token="1")
    token = (await device.receive_json())["secure_token"]
    assert len(token) == 20
    assert (await push(api, name, secure_token=token))[1]["outcomes"][0]["outcome"] == "delivered"
    assert (await push(api, name, secure_token="x" * 20))[1]["outcomes"][0]["outcome"] == "rejected"
    assert await zuul(api, name, token) == 200
    assert await zuul(api, name, "x" * 20) == 403
    again = await connect(server, name)
    assert await device.close_code() == 4002
    assert (await push(api, name, secure_token=token))[1]["outcomes"][0]["outcome"] == "rejected"
    await again.close()


async def test_a_queued_push_goes_to_its_tokens_connection_only(
    server: Server, api: Api, connect: Connect, name: str
) -> None:
    device = await connect(server, name, subprotocols=["zpush.v1"], secure_token="1")
    token = (await device.receive_json())["secure_token"]
    before = (await api.metrics()).total("zpush_messages_total", outcome="rejected")
    for text, shown in (("wrong", "x" * 20), ("right", token)):
        await api.push({"client": name}, text=text, secure_token=shown)
    assert (await device.receive_json())["data"] == "right"
    await api.until_counted("zpush_messages_total", before + 1, outcome="rejected")


async def test_an_event_stream_gets_its_token_as_an_event(server: Server, api: Api, name: str) -> None:
    async with httpx.AsyncClient(base_url=f"http://{server.clients}", trust_env=False) as client:
        parameters = {"client": name, "secure_token": "1"}
        async with asyncio.timeout(10), client.stream("GET", "/sse", params=parameters) as response:
            text = ""
            async for piece in response.aiter_text():
                text += piece
                if "event: secure_token\n" in text and text.endswith("\n\n"):
                    break
    token = text.partition("event: secure_token\ndata: ")[2].strip()
    assert len(token) == 20


async def test_who_says_later_who_it_is_gets_its_token_then(
    serve: Serve, stack: contextlib.AsyncExitStack, tmp_path: Path, name: str
) -> None:
    keys = tmp_path / "keys"
    keys.touch(mode=0o600)
    keys.write_bytes(KEY)
    server = serve("auth.mode=jwt", f"auth.keys_file={keys}", "auth.delayed=true")
    async with Api(server.api) as api:
        for protocol in ("zpush.v1", "zpush.raw"):
            device = await open_device(server, subprotocols=[protocol], secure_token="1")
            stack.push_async_callback(device.close)
            client = f"{name}-{protocol}"
            await device.connection.send(json.dumps({"auth": jwt.sign(KEY, client, ttl_s=60)}))
            token = (await device.receive_json())["secure_token"]
            await found(server, client)
            for presented, outcome in ((token, "delivered"), ("x" * 20, "rejected")):
                _, answer = await push(api, client, secure_token=presented)
                assert answer["outcomes"] == [{"client": client, "outcome": outcome}]


async def zuul(api: Api, client: str, token: str) -> int:
    headers = {"X-CUSTOMER_ID": client, "X-Zuul.push.secure.token": token}
    return (await api.http.post("/push", content=b"hi", headers=headers)).status_code


async def test_the_command_waits_for_an_ack(server: Server, connect: Connect, name: str) -> None:
    device = await connect(server, name, subprotocols=["zpush.v1"])
    command = asyncio.to_thread(run_zpush, "push", "--api", server.api, "--client", name, "--wait-ack", "10s", "hi")
    done, _ = await asyncio.gather(command, ack_next(device))
    assert (done.returncode, done.stdout) == (0, "acked\n"), done.stderr
