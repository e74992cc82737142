"""Peers that are not what they should be, on either side of the internal port of a whole server.

The wire itself is tested in tests/delivery/test_peers_hostile.py. Here strangers call real workers, and the registry
names owners that do not do what owners do: what is for their clients ends as `offline` in its time, and what is for
all others goes on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest

from tests.delivery.raw import ended, owner, read_frame
from tests.road.api import Api
from tests.road.bystanders import Bystanders
from tests.road.raw import Raw
from tests.road.server import Server
from zpush.config.settings import Registry as RegistrySettings
from zpush.delivery.peer_frames import Outcomes, encode
from zpush.delivery.peer_hello import CallerHello, OwnerHello
from zpush.protocol.message import Priority
from zpush.registry.redis import RedisRegistry
from zpush.store import Store

SETTINGS = ("processor.retry=1s",)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def around(server: Server, api: Api) -> AsyncIterator[Bystanders]:
    async with Bystanders(server, api) as bystanders:
        yield bystanders
        await bystanders.unharmed()


def secret_of(server: Server) -> bytes:
    return (server.data_dir / "peers.secret").read_bytes().strip()


# ---- callers

STRANGERS = {
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a WebSocket handshake": b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a frame of 4 GiB": b"\xff\xff\xff\xff",
    "a frame of nothing": b"\0\0\0\0",
    "msgpack that is no hello": encode([1, 2, 3]),
    "nested without end": (1000).to_bytes(4, "big") + b"\x91" * 1000,
}


@pytest.mark.parametrize("name", STRANGERS)
async def test_strangers_learn_nothing_and_go(server: Server, around: Bystanders, name: str) -> None:
    for address in worker_addresses(server):
        stranger = await Raw.connect(address)
        await stranger.send(STRANGERS[name])
        assert await stranger.rest() == b""
        await stranger.close()


async def test_strangers_that_say_nothing_are_few_and_gone_after_their_time(server: Server, around: Bystanders) -> None:
    silent = [await Raw.connect(worker_addresses(server)[0]) for _ in range(200)]
    await around.served()
    assert {await stranger.rest() for stranger in silent} == {b""}


async def test_a_caller_with_the_wrong_secret_is_not_believed(server: Server, api: Api, around: Bystanders) -> None:
    for node in (await api.get("/v1/nodes"))["nodes"]:
        hello = CallerHello(b"not the secret of this server", "stranger", node["node"], Priority.HIGH)
        raw = await Raw.connect(node["address"])
        await raw.send(hello.first)
        await raw.send(hello.challenged(await read_frame(raw.reader)))
        assert await raw.rest() == b"", "no welcome"
    assert "not the secret" not in server.log.read_text()


async def test_a_caller_of_another_version_is_told_ours(server: Server, api: Api, around: Bystanders) -> None:
    raw = await Raw.connect(worker_addresses(server)[0])
    await raw.send(encode(["zpush hello", 99, "future"]))
    kind, version, *_ = msgspec.msgpack.decode((await raw.rest())[4:])
    assert (kind, version) == ("zpush challenge", 1)


REQUESTS = {
    "no msgpack": b"\xc1" * 8,
    "an answer": msgspec.msgpack.encode(Outcomes(1, b"\1")),
    "an entry that is none": msgspec.msgpack.encode([1, 1, [["c1", "m1", b"", 9, 0]]]),
    "an id of 5 kB": msgspec.msgpack.encode([1, 1, [["x" * 5000, "m1", b"", 1, 0]]]),
    "a close code that is none": msgspec.msgpack.encode([3, 1, "c1", 0, 99]),
    "nested without end": b"\x91" * 100_000,
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_caller_that_talks_nonsense_is_dropped(server: Server, api: Api, around: Bystanders, name: str) -> None:
    """It knows the secret: a peer gone wrong."""
    node = (await api.get("/v1/nodes"))["nodes"][0]
    hello = CallerHello(secret_of(server), "gone wrong", node["node"], Priority.NORMAL)
    raw = await Raw.connect(node["address"])
    await raw.send(hello.first)
    await raw.send(hello.challenged(await read_frame(raw.reader)))
    hello.welcomed(await read_frame(raw.reader))
    body = REQUESTS[name]
    await raw.send(len(body).to_bytes(4, "big") + body)
    assert await raw.rest() == b""


def worker_addresses(server: Server) -> list[str]:
    status = server.status()
    assert status is not None
    return list(status["addresses"]["peers"])


# ---- owners

overheard: list[bytes] = []  # by one that has not proved itself
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter, OwnerHello], Awaitable[object]]


async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: OwnerHello) -> None:
    writer.write(hello.greeted(await read_frame(reader))[0])
    writer.write(hello.proved(await read_frame(reader)))


async def hangs_in_its_hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: OwnerHello) -> None:
    await ended(reader, 30)


async def never_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: OwnerHello) -> None:
    await welcome(reader, writer, hello)
    await ended(reader, 30)


async def leaves(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: OwnerHello) -> None:
    """At once."""


async def is_of_another_version(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: OwnerHello) -> None:
    await read_frame(reader)
    writer.write(encode(["zpush challenge", 7, "more than we know"]))
    await ended(reader)


async def does_not_know_the_secret(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: OwnerHello
) -> None:
    writer.write(OwnerHello(b"another secret altogether", "owner").greeted(await read_frame(reader))[0])
    await read_frame(reader)
    writer.write(encode(["zpush welcome", bytes(32)]))
    overheard.append(await reader.read())


async def answers_garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: OwnerHello) -> None:
    await welcome(reader, writer, hello)
    await read_frame(reader)
    writer.write(b"\0\0\0\x08" + b"\xc1" * 8)
    await ended(reader)


async def answers_too_much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: OwnerHello) -> None:
    await welcome(reader, writer, hello)
    await read_frame(reader)
    writer.write(encode(Outcomes(1, b"\1\1\1\1")))
    await ended(reader)


async def sends_4_gib(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: OwnerHello) -> None:
    await welcome(reader, writer, hello)
    writer.write(b"\xff\xff\xff\xff")
    await ended(reader)


OWNERS: list[Serve] = [
    hangs_in_its_hello,
    never_answers,
    leaves,
    is_of_another_version,
    does_not_know_the_secret,
    answers_garbage,
    answers_too_much,
    sends_4_gib,
]


async def test_owners_that_do_not_do_their_part(server: Server, api: Api, around: Bystanders) -> None:
    """All of them at once, and all that is for their clients: queued, direct, and in one batch with the others'."""
    registry = RedisRegistry(Store(server.queue_url, name="test"), RegistrySettings(node_ttl_s=60.0))
    await registry.start()
    async with AsyncExitStack() as stack:
        apis = [await stack.enter_async_context(Api(server.api)) for _ in OWNERS]
        for serve in OWNERS:
            await stack.enter_async_context(announced(registry, secret_of(server), serve))
        before = (await api.metrics()).total("zpush_messages_total", outcome="offline")
        lines = [json.dumps({"to": {"client": client_of(serve)}, "text": "queued"}) for serve in OWNERS]
        status, answers = await api.batch(lines)
        assert status == 200
        assert all(answer["queued"] for answer in answers)
        direct = [
            asyncio.create_task(each.http.post("/v1/push", json=push(serve), timeout=30))
            for each, serve in zip(apis, OWNERS, strict=True)
        ]
        await around.served()
        for serve, answer in zip(OWNERS, await asyncio.gather(*direct), strict=True):
            assert answer.json()["outcomes"] == [{"client": client_of(serve), "outcome": "offline"}], serve.__name__
        assert set(overheard) == {b""}, "no message leaves before its owner has proved itself"
        await api.until_counted("zpush_messages_total", before + 2 * len(OWNERS), outcome="offline")
        await around.served()
        for serve in OWNERS:
            await registry.withdraw(serve.__name__)
    await registry.stop()


def client_of(serve: Serve) -> str:
    return f"client of one that {serve.__name__}"


def push(serve: Serve) -> dict[str, object]:
    return {"to": {"client": client_of(serve)}, "text": "direct", "direct": True}


@asynccontextmanager
async def announced(registry: RedisRegistry, secret: bytes, serve: Serve) -> AsyncIterator[None]:
    """The registry says that this owner is live and holds a client."""
    name = serve.__name__
    async with owner(lambda reader, writer: serve(reader, writer, OwnerHello(secret, name))) as node:
        await registry.announce(msgspec.structs.replace(node, id=name))
        await registry.register(client_of(serve), "", name, 1)
        yield


async def test_an_owner_at_whose_address_nobody_listens_is_dead_for_all(
    server: Server, api: Api, around: Bystanders
) -> None:
    registry = RedisRegistry(Store(server.queue_url, name="test"), RegistrySettings(node_ttl_s=60.0))
    await registry.start()
    async with announced(registry, secret_of(server), leaves):
        assert "leaves" in await registry.nodes()
    assert await api.direct(client_of(leaves), "hello") == "offline"
    assert "leaves" not in await registry.nodes()
    await registry.stop()
