"""Queued and direct, to a client, clients, a user and all: what is pushed arrives, in either process."""

from __future__ import annotations

import base64
import json
import time

import pytest

from tests.road.api import Api
from tests.road.devices import Connect, Spread, open_stream
from tests.road.server import Server
from tests.support import eventually
from zpush import Outcome, Pusher


async def test_queued_messages_reach_both_workers_in_order(server: Server, api: Api, spread: Spread) -> None:
    devices = await spread(server)
    for number in range(20):
        for device in devices:
            answer = await api.push({"client": device.client_id}, text=f"{number}")
            assert answer["queued"] is True
    for device in devices:
        assert await device.receive_all(20) == [str(n) for n in range(20)]


async def test_direct_messages_cross_from_the_workers_that_do_not_own_the_client(
    server: Server, api: Api, spread: Spread
) -> None:
    """One connection to the API is one worker, and one of the two clients is another's."""
    for number, device in enumerate(await spread(server)):
        assert await api.direct(device.client_id, f"now {number}") == "delivered"
        assert await device.receive() == f"now {number}"


async def test_connections_of_both_workers_are_shown(server: Server, api: Api, spread: Spread) -> None:
    await spread(server)

    async def shown() -> bool:
        nodes = (await api.get("/v1/nodes"))["nodes"]
        return [node["worker"] for node in nodes] == [0, 1] and all(node["connections"] for node in nodes)

    await eventually(shown, "each worker announces a connection")


async def test_every_kind_of_payload_arrives_as_it_was_sent(
    server: Server, api: Api, connect: Connect, name: str
) -> None:
    raw = await connect(server, f"{name}-raw")
    v1 = await connect(server, f"{name}-v1", subprotocols=["zpush.raw.unknown", "zpush.v1"])
    assert v1.connection.subprotocol == "zpush.v1"
    blob = bytes(range(256))
    fields = ({"text": "héllo\n"}, {"data": {"a": [1, 1.5, "ü"]}}, {"base64": base64.b64encode(blob).decode()})
    for number, each in enumerate(fields):
        await api.push({"clients": [raw.client_id, v1.client_id]}, id=f"m{number}", **each)
    assert await raw.receive_all(3) == ["héllo\n", '{"a":[1,1.5,"ü"]}', blob]
    assert [json.loads(each) for each in await v1.receive_all(3)] == [
        {"id": "m0", "data": "héllo\n"},
        {"id": "m1", "data": {"a": [1, 1.5, "ü"]}},
        {"id": "m2", "base64": base64.b64encode(blob).decode()},
    ]


async def test_a_batch_answers_each_line_and_a_bad_one_spoils_no_other(
    server: Server, api: Api, spread: Spread, name: str
) -> None:
    first, second = await spread(server)
    status, answers = await api.batch(
        [
            json.dumps({"to": {"client": first.client_id}, "text": "queued", "id": "q"}),
            '{"to": {"client": "x"}, "text": ',
            json.dumps({"to": {"client": second.client_id}, "text": "direct", "direct": True, "id": "d"}),
            json.dumps({"to": {"client": "x", "user": "y"}, "text": "two targets"}),
            json.dumps({"to": {"client": f"{name}-nobody"}, "text": "lost", "direct": True}),
            json.dumps({"to": {"client": first.client_id}, "text": "ttl", "ttl": "soon"}),
        ]
    )
    assert status == 200
    assert answers[0] == {"id": "q", "queued": True}
    assert answers[2] == {"id": "d", "outcomes": [{"client": second.client_id, "outcome": "delivered"}]}
    assert answers[4]["outcomes"] == [{"client": f"{name}-nobody", "outcome": "offline"}]
    assert [answers[i]["error"]["field"] for i in (3, 5)] == ["to", "ttl"]
    assert all(answers[i]["error"]["code"] == "malformed" for i in (1, 3, 5))
    assert await first.receive() == "queued"
    assert await second.receive() == "direct"


async def test_a_large_batch_arrives_whole_and_in_order(server: Server, api: Api, spread: Spread) -> None:
    devices = await spread(server)
    lines = [json.dumps({"to": {"client": d.client_id}, "text": str(n)}) for n in range(1000) for d in devices]
    status, answers = await api.batch(lines)
    assert status == 200
    assert all(answer["queued"] for answer in answers)
    for device in devices:
        assert await device.receive_all(1000) == [str(n) for n in range(1000)]


async def test_several_clients_are_answered_in_their_order(server: Server, api: Api, spread: Spread, name: str) -> None:
    first, second = await spread(server)
    clients = [second.client_id, f"{name}-nobody", first.client_id]
    answer = await api.push({"clients": clients}, text="all of you", direct=True)
    assert answer["outcomes"] == [
        {"client": clients[0], "outcome": "delivered"},
        {"client": clients[1], "outcome": "offline"},
        {"client": clients[2], "outcome": "delivered"},
    ]
    for device in (first, second):
        assert await device.receive() == "all of you"


@pytest.mark.parametrize("direct", [False, True])
async def test_a_user_is_all_its_devices_and_nobody_elses(
    server: Server, api: Api, spread: Spread, connect: Connect, name: str, direct: bool
) -> None:
    user = f"{name}-user"
    devices = await spread(server, user)
    other = await connect(server, f"{name}-other", f"{name}-other-user")
    async with open_stream(server, f"{name}-stream", user) as stream:
        answer = await api.push({"user": user}, text="hello", direct=direct)
        assert [await device.receive() for device in devices] == ["hello", "hello"]
        assert (await stream.receive()).data == "hello"
    if direct:
        reached = {each["client"] for each in answer["outcomes"] if each["outcome"] == "delivered"}
        assert reached == {f"{name}-stream", *(device.client_id for device in devices)}
    assert await api.direct(other.client_id, "to you") == "delivered"
    assert await other.receive() == "to you"


async def test_a_user_without_devices_is_offline(server: Server, api: Api, name: str) -> None:
    answer = await api.push({"user": name}, text="hello", direct=True)
    assert answer["outcomes"] == [{"user": name, "outcome": "offline"}]


@pytest.mark.parametrize("direct", [False, True])
async def test_all_reaches_every_connection_once(
    server: Server, api: Api, spread: Spread, name: str, direct: bool
) -> None:
    devices = await spread(server)
    async with open_stream(server, f"{name}-stream") as stream:
        for _ in range(2):  # the same id again: a retry
            answer = await api.push({"all": True}, text="everybody", id=f"{name}-all", direct=direct)
            if direct:
                assert answer["unreachable"] == 0
        for device in devices:
            assert await device.receive() == "everybody"
            assert await api.direct(device.client_id, "after") == "delivered"
            assert await device.receive() == "after"
        assert (await stream.receive()).data == "everybody"


async def test_direct_all_answers_counts(server: Server, api: Api, spread: Spread) -> None:
    await spread(server)
    answer = await api.push({"all": True}, text="count", direct=True)
    assert answer["counts"].keys() == {"delivered"}
    assert answer["counts"]["delivered"] >= 2


async def test_who_is_not_connected_is_offline(server: Server, api: Api, connect: Connect, name: str) -> None:
    assert await api.direct(name, "nobody") == "offline"
    device = await connect(server, name)
    assert await api.direct(name, "there") == "delivered"
    await device.close()

    async def offline() -> bool:
        return await api.direct(name, "gone") == "offline"

    await eventually(offline, "the lease is removed when the client closes")


async def test_a_message_that_waited_longer_than_its_ttl_is_expired(
    server: Server, api: Api, connect: Connect, name: str
) -> None:
    device = await connect(server, name)
    before = (await api.metrics()).total("zpush_messages_total", outcome="expired")
    with server.paused("processors"):
        await api.push({"client": name}, text="late", ttl="50ms")
        await api.push({"client": name}, text="in time", ttl="60s")
        expired_s = time.time() + 0.06
        await eventually(lambda: time.time() > expired_s, "its time is over")
    assert await device.receive() == "in time"
    await api.until_counted("zpush_messages_total", before + 1, outcome="expired")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ("", 400, "malformed"),
        ("[]", 400, "malformed"),
        ('{"to": {"client": "c"}, "text": "a", "data": 1}', 400, "malformed"),
        ('{"to": {"client": "c"}, "text": "a", "priority": "urgent"}', 400, "malformed"),
        (json.dumps({"to": {"client": "c"}, "text": "a" * 65537}), 413, "too_large"),
    ],
)
async def test_what_cannot_be_meant_is_refused(api: Api, body: str, status: int, code: str) -> None:
    response = await api.http.post("/v1/push", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status
    assert response.json()["error"]["code"] == code


async def test_the_library_pushes_through_the_queue(server: Server, spread: Spread) -> None:
    devices = await spread(server)
    async with Pusher(server.queue_url) as pusher:
        for device in devices:
            pushed = await pusher.push(client=device.client_id, data={"hello": 1}, priority="high", ttl=60, id="m1")
            assert pushed == "m1"
            assert await device.receive_json() == {"hello": 1}


async def test_the_library_pushes_through_the_api(server: Server, spread: Spread, name: str) -> None:
    first, second = await spread(server, name)
    async with Pusher(server.api) as pusher:
        assert await pusher.push(client=first.client_id, text="queued", id="m1") == "m1"
        assert await first.receive() == "queued"
        assert await pusher.push(client=second.client_id, text="now", direct=True) is Outcome.DELIVERED
        assert await second.receive() == "now"
        assert await pusher.push(client=f"{name}-nobody", text="now", direct=True) is Outcome.OFFLINE
        outcomes = await pusher.push(user=name, binary=b"\x00\xff", direct=True)
        assert outcomes[first.client_id] is outcomes[second.client_id] is Outcome.DELIVERED
        assert [await first.receive(), await second.receive()] == [b"\x00\xff", b"\x00\xff"]
        assert (await pusher.push(all=True, text="x", direct=True))[Outcome.DELIVERED] >= 2


def test_the_library_pushes_without_a_loop(server: Server, name: str) -> None:
    with Pusher(server.api) as pusher:
        assert pusher.push_sync(client=name, text="now", direct=True) is Outcome.OFFLINE
