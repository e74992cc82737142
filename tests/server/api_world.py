"""The API of one worker of two, on real HTTP, with a real router and real peers; engine and registry are tables."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import httpx

from tests.delivery.world import SECRET, Box, Memory
from tests.server.raw_http import serving
from zpush.config import Settings
from zpush.delivery.peers import Peers
from zpush.delivery.router import Router
from zpush.delivery.tally import Tally
from zpush.protocol.message import Message, Outcome, Priority
from zpush.protocol.secure_token import SecureTokens
from zpush.queue.base import Lag
from zpush.registry.base import Lease
from zpush.scoreboard import WORKER, Scoreboard
from zpush.server.api import Api, ApiContext
from zpush.server.http import MAX_BODY_BYTES
from zpush.server.http_message import HttpRequest

KEY = "a-key-of-at-least-16-characters"
SETTINGS = Settings()


class Queue:
    """A Producer: what it took, or why not. refuse: an error by client id, "*" for all."""

    def __init__(self) -> None:
        self.batches: list[list[Message]] = []
        self.refuse: dict[str, Exception] = {}

    @property
    def messages(self) -> list[Message]:
        return [message for batch in self.batches for message in batch]

    up = True
    reason = ""

    async def lag(self) -> dict[Priority, Lag]:
        return {}

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def publish(self, messages: Sequence[Message]) -> list[Exception | None]:
        errors = [self.refuse.get(message.key) or self.refuse.get("*") for message in messages]
        self.batches.append([m for m, error in zip(messages, errors, strict=True) if error is None])
        return errors


class World:
    """`here` holds c1 and c2, `there` (another worker) c3; users are leases' user ids."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.here = Box("here", "c1", "c2")
        self.there = Box("there", "c3")
        self.registry = Memory()
        self.queue = Queue()
        self.scoreboard = Scoreboard()
        self.row = self.scoreboard.rows[self.scoreboard.claim(WORKER, 0)]
        self.not_ready = ""
        self.context: ApiContext
        self.port = 0
        self.http: httpx.AsyncClient

    def of_user(self, user_id: str, *client_ids: str) -> None:
        for client_id in client_ids:
            lease = self.registry.leases[client_id]
            self.registry.leases[client_id] = Lease(client_id, lease.node_id, lease.epoch, user_id)

    def counted(self, outcome: Outcome, priority: Priority = Priority.NORMAL) -> int:
        return self.row.get(f"messages_{outcome.label}_{priority.label}")

    async def push(self, **body: Any) -> httpx.Response:
        return await self.http.post("/v1/push", json=body)

    async def lines(self, *lines: bytes | str) -> httpx.Response:
        body = b"\n".join(line.encode() if isinstance(line, str) else line for line in lines) + b"\n"
        return await self.http.post("/v1/push", content=body, headers={"Content-Type": "application/x-ndjson"})


@contextlib.asynccontextmanager
async def api_world(settings: Settings = SETTINGS, **headers: str) -> AsyncIterator[World]:
    world = World(settings)
    await world.here.listen()
    await world.there.listen()
    world.registry.add(world.here, world.there)
    peers = Peers(SECRET, "here")
    router = Router(world.registry, peers, world.here.table, "here", settings.peers.region, 15.0, 10.0)
    world.context = ApiContext(
        settings,
        world.here.table,
        router,
        world.registry,
        world.queue,
        peers,
        world.row,
        Tally(world.row),
        world.scoreboard,
        lambda: world.not_ready,
        "here",
        world.here.server.broadcasts,
        SecureTokens(SECRET),
    )
    try:
        async with serving(Api(world.context), max_body_bytes=MAX_BODY_BYTES) as (_, port):
            world.port = port
            base = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=base, headers=headers, timeout=10.0, trust_env=False) as http:
                world.http = http
                yield world
    finally:
        await router.stop()
        await peers.stop()
        await world.here.die()
        await world.there.die()


def with_api(**changes: Any) -> Settings:
    return replace(SETTINGS, api=replace(SETTINGS.api, **changes))


def outcomes(response: httpx.Response) -> list[tuple[str, str]]:
    assert response.status_code == 200, response.text
    return [(row.get("client", ""), row["outcome"]) for row in response.json()["outcomes"]]


def error(response: httpx.Response) -> tuple[int, str, str]:
    body = response.json()["error"]
    assert set(body) == {"code", "message", "field"}
    return response.status_code, body["code"], body["field"]


def posted(body: bytes) -> HttpRequest:
    return HttpRequest("POST", "/v1/push", "", {}, False, True, False, len(body), body)


async def zuul(world: World, method: str, client: str = "c1", body: bytes = b"hi", headers: Any = None) -> int:
    sent = {**({"X-CUSTOMER_ID": client} if client else {}), **(headers or {})}
    response = await world.http.request(method, "/push", content=body if method == "POST" else None, headers=sent)
    return response.status_code
