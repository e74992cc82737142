"""What senders and operators see of messages on their way: receipts, `zpush trace`, `zpush dead`, on each back end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from typing import Any

import pytest
import redis
from confluent_kafka import Producer

from tests.queue.kafka_backend import read_all
from tests.road.api import Api
from tests.road.devices import Connect, Device, Spread
from tests.road.server import Serve, Server
from tests.road.test_kafka import make_topics, settings_for
from tests.support import eventually
from zpush.protocol.message import new_id


class Site:
    """A server with receipts on, and what lies in its queue."""

    def __init__(self, serve: Serve, kafka: Any) -> None:
        """kafka: None for the embedded Streams."""
        sets = ["queue.receipts=true", "peers.region=eu"]
        self._kafka = kafka
        if kafka is not None:
            sets += settings_for(kafka.url, kafka.prefix)
            make_topics(sets)
        self.server: Server = serve(*sets)

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """A zpush command with the server's options."""
        process = self.server.spawn("-m", "zpush", *arguments, stdout=-1, stderr=-1)
        out, err = await asyncio.to_thread(process.communicate, timeout=60)
        return process.returncode, out, err

    async def trace(self, id: str, count: int) -> list[dict[str, Any]]:
        """Once there are so many."""

        async def found() -> list[dict[str, Any]] | None:
            _, out, _ = await self.run("trace", id, "--json")
            receipts = [json.loads(line) for line in out.splitlines()]
            return receipts if len(receipts) >= count else None

        receipts = await eventually(found, f"{count} receipts of {id}", 60.0)
        assert receipts is not None and len(receipts) == count
        return receipts

    def receipts(self) -> list[dict[str, Any]]:
        """All that were ever written."""
        if self._kafka is not None:
            records = read_all(self._kafka.bootstrap, f"{self._kafka.prefix}.receipts")
            return [json.loads(record.value()) for record in records]
        with redis.Redis.from_url(self.server.queue_url) as valkey:
            return [json.loads(fields[b"payload"]) for _, fields in valkey.xrange("zpush.receipts")]

    def put_garbage(self, key: str) -> None:
        """As somebody else's program would."""
        if self._kafka is not None:
            producer = Producer({"bootstrap.servers": self._kafka.bootstrap})
            producer.produce(f"{self._kafka.prefix}.normal", b"hello", key, headers={"type": "video"})
            assert producer.flush(30) == 0
            return
        with redis.Redis.from_url(self.server.queue_url) as valkey:
            valkey.xadd("zpush.normal.0", {"key": key, "payload": "hello", "type": "video"})


@pytest.fixture(params=["streams", "kafka"])
def site(request: pytest.FixtureRequest, serve: Serve) -> Site:
    return Site(serve, request.getfixturevalue("kafka") if request.param == "kafka" else None)


async def test_a_sender_follows_its_messages(site: Site, spread: Spread, connect: Connect) -> None:
    devices = await spread(site.server, "u1")
    device = await connect(site.server, "single")
    async with Api(site.server.api) as api:
        node = (await api.get("/v1/clients/single"))["node"]
        ids = {
            "client": (await api.push({"client": "single"}, text="x", priority="high"))["id"],
            "nobody": (await api.push({"client": "nobody"}, text="x"))["id"],
            "user": (await api.push({"user": "u1"}, text="x"))["id"],
            "all": (await api.push({"all": True}, text="x", priority="low"))["id"],
        }
        await api.direct("single", "its sender has the answer")
        (receipt,) = await site.trace(ids["client"], 1)
        assert receipt == {
            "id": ids["client"],
            "priority": "high",
            "region": "eu",
            "queued_ms": receipt["queued_ms"],
            "settled_ms": receipt["settled_ms"],
            "outcome": "delivered",
            "client": "single",
            "user": "",
            "node": node,
            "redelivered": False,
            "counts": {},
        }
        assert 1_600_000_000_000 < receipt["queued_ms"] <= receipt["settled_ms"]
        (nobody,) = await site.trace(ids["nobody"], 1)
        assert (nobody["outcome"], nobody["client"], nobody["node"]) == ("offline", "nobody", "")
        of_user = await site.trace(ids["user"], 2)
        assert {each["client"] for each in of_user} == {each.client_id for each in devices}
        assert [each["counts"] for each in await site.trace(ids["all"], 1)] == [{"delivered": 3}]
        await api.until_counted("zpush_receipts_total", 5, result="written")
        assert (await api.metrics()).total("zpush_receipts_total", result="lost") == 0
    assert len(await device.receive_all(3)) == 3
    code, out, err = await site.run("trace", new_id())
    assert (code, out) == (3, "") and err.startswith("no receipt of ")


async def test_every_outcome_is_told_though_a_processor_is_killed(site: Site, spread: Spread) -> None:
    """What it had delivered and not told is delivered again, and told."""
    server = site.server
    devices = await spread(server, "u1")
    ids = [new_id() for _ in range(2000)]
    lines = [json.dumps({"to": {"client": devices[n % 2].client_id}, "text": id, "id": id}) for n, id in enumerate(ids)]
    async with Api(server.api) as api:
        for begin in range(0, len(ids), 100):
            await api.batch(lines[begin : begin + 100])
            if begin == 1000:
                os.kill(server.pid_of("processors"), signal.SIGKILL)

        async def settled() -> bool:
            metrics = await api.metrics()
            return metrics.total("zpush_queue_lag_messages") == 0 and metrics.total("zpush_in_flight_messages") == 0

        await eventually(settled, "all is finished", 60.0)
    for number, device in enumerate(devices):
        await receive_each(device, ids[number::2])
    receipts = await asyncio.to_thread(site.receipts)
    told = Counter(each["id"] for each in receipts)
    assert told.keys() == set(ids)
    assert {each["outcome"] for each in receipts} == {"delivered"}
    doubled = [each for each in receipts if told[each["id"]] > 1]
    assert len(receipts) - len(ids) <= sum(each.get("redelivered", False) for each in doubled), (
        "told twice means read twice"
    )


async def receive_each(device: Device, texts: list[str]) -> None:
    """Once at least."""
    missing = set(texts)
    while missing:
        missing.discard(str(await device.receive()))


async def test_dead_letters_are_listed_and_replayed(site: Site, connect: Connect) -> None:
    device = await connect(site.server, "garbage")
    async with Api(site.server.api) as api:
        await asyncio.to_thread(site.put_garbage, "garbage")
        await api.until_counted("zpush_dead_total", 1)
        code, out, _ = await site.run("dead", "list", "--json")
        (letter,) = map(json.loads, out.splitlines())
        assert (code, letter["priority"]) == (0, "normal")
        assert letter["reason"] == letter["problem"] == "type must be text, binary or json, not 'video'"
        code, out, _ = await site.run("dead", "replay", "--all")
        assert (code, out) == (1, "replayed 1; 1 still cannot be read and become dead letters again\n")
        await api.until_counted("zpush_dead_total", 2)
        code, out, _ = await site.run("dead", "list")
        (line,) = out.splitlines()
        assert line.split()[0] != letter["letter"]
        await api.push({"client": "garbage"}, text="nothing is blocked")
    assert await device.receive() == "nothing is blocked"
