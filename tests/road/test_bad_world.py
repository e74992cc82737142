"""What surrounds the server goes wrong: strangers write into its queue, its disk is full, Valkey is killed under load.

A taken port and an unwritable data directory are answered at the start: see tests/road/test_end.py and tests/master.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import resource
from collections.abc import AsyncIterator

import pytest
import redis

from tests.road.api import Api
from tests.road.bystanders import Bystanders, descriptors
from tests.road.crowd import upgrade
from tests.road.devices import Connect, Device, Spread
from tests.road.raw import Raw
from tests.road.server import Serve, Server
from tests.support import eventually
from zpush.protocol.message import Priority
from zpush.queue.layout import Layout

LAYOUT = Layout("zpush", 8)


@pytest.fixture
async def around(server: Server, api: Api) -> AsyncIterator[Bystanders]:
    async with Bystanders(server, api) as bystanders:
        yield bystanders
        await bystanders.unharmed()


# ---- the queue

KEY = "garbage"  # all in one stream, good and bad
GARBAGE: dict[str, tuple[dict[bytes, bytes], str]] = {
    "no key": ({b"payload": b"x"}, "client is empty"),
    "no payload": ({b"key": KEY.encode()}, "payload"),
    "a key that is not UTF-8": ({b"key": b"\xff", b"payload": b"x"}, "not valid UTF-8"),
    "a key with a newline": ({b"key": b"a\nb", b"payload": b"x"}, "control character"),
    "a key of 5 kB": ({b"key": b"a" * 5000, b"payload": b"x"}, "255"),
    "text that is not UTF-8": ({b"key": KEY.encode(), b"payload": b"\xff"}, "UTF-8"),
    "a type that is none": ({b"key": KEY.encode(), b"payload": b"x", b"type": b"video"}, "type must be"),
    "a target that is none": ({b"key": KEY.encode(), b"payload": b"x", b"target": b"room"}, "target must be"),
    "an expiry that is no time": ({b"key": KEY.encode(), b"payload": b"x", b"expires": b"soon"}, "expires"),
    "an id of 5 kB": ({b"key": KEY.encode(), b"payload": b"x", b"id": b"a" * 5000}, "255"),
    "something else altogether": ({b"\x00\xff": b"\xff\x00"}, "payload"),
}


async def test_garbage_in_a_stream_goes_to_the_dead_letters_and_blocks_nothing(
    server: Server, api: Api, around: Bystanders, connect: Connect
) -> None:
    device = await connect(server, KEY)
    before = await api.metrics()
    with redis.Redis.from_url(server.queue_url) as valkey:
        for priority in Priority:
            stream = LAYOUT.stream(priority, LAYOUT.partition_of(KEY))
            for number, (fields, _) in enumerate(GARBAGE.values()):
                valkey.xadd(stream, dict(fields))
                await api.push({"client": KEY}, text=f"{priority.label} {number}", priority=priority.label)
        texts = [str(text) for text in await device.receive_all(3 * len(GARBAGE))]
        for priority in Priority:
            expected = [f"{priority.label} {number}" for number in range(len(GARBAGE))]
            assert [text for text in texts if text.startswith(priority.label)] == expected
        dead = before.total("zpush_dead_total") + 3 * len(GARBAGE)
        metrics = await api.until_counted("zpush_dead_total", dead)
        rejected = before.total("zpush_messages_total", outcome="rejected") + 3 * len(GARBAGE)
        assert metrics.total("zpush_messages_total", outcome="rejected") == rejected
        letters = [fields for _, fields in valkey.xrange(LAYOUT.dead)]
        assert len(letters) == 3 * len(GARBAGE)
        for letter, (fields, reason) in zip(sorted(letters, key=_entry), _thrice(), strict=True):
            assert reason in letter[b"reason"].decode()
            assert fields.items() <= letter.items(), "as they were"
            assert len(letter[b"reason"]) < 500
    await device.close()


def _entry(letter: dict[bytes, bytes]) -> tuple[bytes, list[int]]:
    """high, low, normal: each stream's in order."""
    return letter[b"stream"], [int(part) for part in letter[b"entry"].split(b"-")]


def _thrice() -> list[tuple[dict[bytes, bytes], str]]:
    return [*GARBAGE.values()] * 3


async def test_a_stream_that_is_no_stream_stops_no_other(serve: Serve, connect: Connect) -> None:
    """A string has the name of one stream: clients of the others are served, and of this one when it is gone."""
    server = serve()
    blocked = LAYOUT.stream(Priority.NORMAL, LAYOUT.partition_of(KEY))
    other = next(c for c in map(str, itertools.count()) if LAYOUT.partition_of(c) != LAYOUT.partition_of(KEY))
    devices = [await connect(server, client_id) for client_id in (KEY, other)]
    async with Api(server.api) as api:
        with redis.Redis.from_url(server.queue_url) as valkey:
            valkey.delete(blocked)
            valkey.set(blocked, "a string")
            response = await api.http.post("/v1/push", json={"to": {"client": KEY}, "text": "x"})
            assert response.status_code == 503
            await api.push({"client": other}, text="on it goes")
            assert await devices[1].receive() == "on it goes"
            valkey.delete(blocked)

        await api.push({"client": KEY}, text="here again")
        assert await devices[0].receive() == "here again"


# ---- descriptors

SPARE = 5


async def test_workers_without_descriptors_let_the_others_in_later(serve: Serve) -> None:
    server = serve()
    async with Api(server.api) as api, Bystanders(server, api) as around:
        pids = around.pids()
        limits = [resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids]
        for pid, (_, most) in zip(pids, limits, strict=True):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(pid) + SPARE, most))
        clients = [await Raw.connect(server.clients) for _ in range(40)]
        for number, client in enumerate(clients):
            await client.send(upgrade(f"late{number}"))
        answers = [asyncio.create_task(client.head()) for client in clients]
        await eventually(lambda: sum(answer.done() for answer in answers) >= 2 * SPARE - 2, "some are let in")
        await around.served()
        assert not all(answer.done() for answer in answers)
        for pid, limit in zip(pids, limits, strict=True):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
        for answer in await asyncio.gather(*answers):
            assert answer.startswith(b"HTTP/1.1 101 ")
        for client in clients:
            client.reset()
        await around.unharmed()


# ---- the disk

ROOM_BYTES = 16_384


async def test_a_full_disk_refuses_and_recovers(serve: Serve, spread: Spread, connect: Connect) -> None:
    """What was taken is not lost, what is refused is said to be; connections stay, and new ones are let in."""
    server = serve()
    devices = await spread(server)
    pids = [server.pid_of("workers", slot) for slot in (0, 1)]
    valkey = server.pid_of("valkey")
    [log] = (server.data_dir / "valkey").rglob("*.incr.aof")
    full = log.stat().st_size + ROOM_BYTES  # to Valkey, a file that may not grow is a disk that is full
    async with Api(server.api) as api:
        resource.prlimit(valkey, resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))
        taken = await push_until_refused(api, devices)
        assert taken
        reason = await until_not_ready(api)
        assert "No space left on device" in reason
        late = await connect(server, "late", known_as="")
        outcomes = [await direct_or_503(api, device) for device in devices]
        assert sorted(outcomes) == ["delivered", "registry_unavailable"], "only who is connected to the asked worker"
        resource.prlimit(valkey, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        # Of a client that came meanwhile nobody knows before its lease is written: docs/registry.md, "takes no writes".
        await eventually(lambda: api.holds("late"), "its lease is written")
        for device in (late, *devices):
            await eventually(lambda device=device: queued(api, device.client_id), "the queue takes messages again")
        for device in devices:
            received = [text for text in await device.receive_until("last") if text not in ("last", "direct")]
            assert received == [text for client, text in taken if client == device.client_id]
        assert await late.receive() == "last"
    assert [server.pid_of("workers", slot) for slot in (0, 1)] == pids
    assert server.pid_of("valkey") == valkey


async def push_until_refused(api: Api, devices: list[Device]) -> list[tuple[str, str]]:
    taken: list[tuple[str, str]] = []
    for number in range(1000):
        client, text = devices[number % 2].client_id, f"{number} ".ljust(500, "x")
        response = await api.http.post("/v1/push", json={"to": {"client": client}, "text": text})
        if response.status_code == 503:
            assert response.json()["error"]["code"] == "queue_unavailable"
            assert int(response.headers["Retry-After"]) > 0
            return taken
        assert response.status_code == 202
        taken.append((client, text))
    raise AssertionError("the disk is never full")


async def until_not_ready(api: Api) -> str:
    async def reason() -> str:
        response = await api.http.get("/readyz")
        return str(response.json()["reason"]) if response.status_code == 503 else ""

    return await eventually(reason, "readiness falls")


async def direct_or_503(api: Api, device: Device) -> str:
    body = {"to": {"client": device.client_id}, "text": "direct", "direct": True}
    response = await api.http.post("/v1/push", json=body)
    if response.status_code == 503:
        assert int(response.headers["Retry-After"]) > 0
        return str(response.json()["error"]["code"])
    return str(response.json()["outcomes"][0]["outcome"])


async def queued(api: Api, client_id: str) -> bool:
    response = await api.http.post("/v1/push", json={"to": {"client": client_id}, "text": "last"})
    assert response.status_code in (202, 503)
    return response.status_code == 202


# ---- Valkey

BATCHES, LINES = 40, 200


async def test_valkey_is_killed_under_load(serve: Serve, spread: Spread) -> None:
    """Every message that was taken arrives, in order, whatever the answers to the others were; nobody is cut off."""
    server = serve("processor.instances=2")
    devices = await spread(server)
    pids = [server.pid_of("workers", slot) for slot in (0, 1)]
    taken: list[tuple[str, str]] = []
    refused = 0
    async with Api(server.api) as api:
        for batch in itertools.count():
            if batch == BATCHES // 4:
                os.kill(server.pid_of("valkey"), 9)
            numbers = range(batch * LINES, (batch + 1) * LINES)
            pushes = [(devices[number % 2].client_id, str(number)) for number in numbers]
            lines = [json.dumps({"to": {"client": client}, "text": text}) for client, text in pushes]
            status, answers = await api.batch(lines)
            assert status in (200, 503)
            taken += [push for push, answer in zip(pushes, answers, strict=True) if "queued" in answer]
            codes = {answer["error"]["code"] for answer in answers if "error" in answer}
            assert codes <= {"queue_unavailable", "registry_unavailable"}
            refused += sum("error" in answer for answer in answers)
            if batch > BATCHES and not codes:
                break
        assert refused, "nobody noticed"
        for device in devices:
            mine = [text for client, text in taken if client == device.client_id]
            await api.push({"client": device.client_id}, text="last")
            received = list(dict.fromkeys(map(str, await asyncio.wait_for(device.receive_until("last"), 30))))
            known = set(mine)
            assert [text for text in received if text in known] == mine
            strays = [int(text) for text in received if text not in known and text != "last"]
            assert len(strays) <= LINES, "what was under way when it died may have been taken"
    assert [server.pid_of("workers", slot) for slot in (0, 1)] == pids
    server.until_ready(restarts=1)
