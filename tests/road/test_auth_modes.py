"""auth.mode cookie, hook, python and jwt with a URL: through real handshakes, and over a reload."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests.auth.service import Service, service
from tests.auth.tokens import jwk, key_set, rsa_key, signed
from tests.road.api import Api
from tests.road.devices import Connect
from tests.road.raw import found
from tests.road.server import Serve, Server
from tests.support import end, eventually, wait_until
from zpush.auth import cookie

KEYS = [b"%d key of at least thirty-two bytes, for tests" % n for n in range(2)]


@pytest.fixture
def it() -> Iterator[Service]:
    """On a loop of its own: it must answer while a server is waited for."""
    box: list[tuple[Service, asyncio.AbstractEventLoop, asyncio.Event]] = []
    ready = threading.Event()

    async def serve() -> None:
        async with service() as running:
            over = asyncio.Event()
            box.append((running, asyncio.get_running_loop(), over))
            ready.set()
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10.0)
    running, loop, over = box[0]
    try:
        yield running
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10.0)


async def status(connect: Connect, server: Server, headers: dict[str, str] | None = None) -> int:
    """Of a handshake: 101, or what it was refused with."""
    try:
        await connect(server, headers=headers)
    except InvalidStatus as refused:
        response = refused.response
        assert response.status_code != 503 or response.headers["Retry-After"].isdigit()
        return response.status_code
    return 101


def reload(server: Server, event: str) -> None:
    """Until both workers say so."""
    end(server.spawn("-m", "zpush", "reload"), 0, 30.0)
    wait_until(lambda: {"worker 0", "worker 1"} <= {line["process"] for line in server.logged(event)}, event)


def by_cookie(key: bytes, client_id: str) -> dict[str, str]:
    return {"Cookie": f"a=b; zpush={cookie.sign(key, client_id, ttl_s=60)}"}


async def test_cookie_whose_keys_change_by_a_reload(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.touch(mode=0o600)
    keys.write_bytes(KEYS[0])
    server = serve("auth.mode=cookie", f"auth.keys_file={keys}")
    stays = await connect(server, headers=by_cookie(KEYS[0], "stays"), known_as="stays")
    old, new = (by_cookie(key, f"d{n}") for n, key in enumerate(KEYS))
    assert [await status(connect, server, each) for each in (old, new, None)] == [101, 401, 401]

    keys.write_bytes(b"too short")
    assert end(server.spawn("-m", "zpush", "reload"), 0, 30.0) == 2  # the master has tried it first
    assert server.logged("reload refused, the old settings stay")
    assert [await status(connect, server, each) for each in (old, new)] == [101, 401]

    keys.write_bytes(KEYS[1])
    reload(server, "reloaded")
    assert [await status(connect, server, each) for each in (old, new)] == [401, 101]
    async with Api(server.api) as api:
        assert await api.direct("stays", "still here") == "delivered"
    assert await stays.receive() == "still here"


async def test_hook(serve: Serve, connect: Connect, it: Service) -> None:
    server = serve("auth.mode=hook", f"auth.hook_url={it.url}", "auth.hook_headers=x-device", "auth.hook_cache=0s")
    it.says(client="d1", user="u1", expires=time.time() + 3600)
    device = await connect(server, headers={"X-Device": "one", "X-Other": "two"}, known_as="d1")
    async with Api(server.api) as api:
        assert await api.direct("d1", "hello") == "delivered"
        assert await device.receive() == "hello"
        assert it.questions[0]["headers"] == {"x-device": "one"} and it.questions[0]["path"] == "/ws"
        for code, expected, result in ((401, 401, "unauthorized"), (403, 403, "forbidden"), (500, 503, "unavailable")):
            it.status = code
            assert await status(connect, server) == expected
            await api.until_counted("zpush_handshakes_total", 1, result=result)
    it.says(client="d2", expires=time.time() + 5)
    short = await connect(server)
    assert await short.close_code() == 4006


def rs256(key_id: str, key: str) -> str:
    return signed(
        {"alg": "RS256", "kid": key_id}, {"sub": f"by-{key}", "exp": int(time.time()) + 60}, rsa_key(key)
    ).decode()


async def test_keys_from_a_url(serve: Serve, connect: Connect, it: Service) -> None:
    it.body = key_set(jwk(rsa_key("a"), kid="a"))
    server = serve("auth.mode=jwt", f"auth.jwks_url={it.url}", "auth.delayed=true")
    for key_id, key, expected in (("a", "a", 101), ("a", "b", 401)):
        assert await status(connect, server, {"Authorization": f"Bearer {rs256(key_id, key)}"}) == expected
    it.body = key_set(jwk(rsa_key("b"), kid="b"))
    assert await status(connect, server, {"Authorization": f"Bearer {rs256('b', 'b')}"}) == 101, "fetched out of turn"
    later = await connect(server)
    await later.connection.send(json.dumps({"auth": rs256("b", "b")}))
    async with Api(server.api) as api:
        await eventually(partial(api.holds, "by-b"))
        assert await api.direct("by-b", "hello") == "delivered"


async def test_a_function(serve: Serve, connect: Connect) -> None:
    server = serve("auth.mode=python:tests.auth.example:who")
    assert await status(connect, server, {"X-Session": "s3cr3t"}) == 101
    assert await status(connect, server) == 401
    await found(server, "device-1")
    async with Api(server.api) as api:
        assert (await api.get("/v1/clients/device-1"))["user"] == "user-1"
