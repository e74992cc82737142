"""Delayed authentication by the first message, and newer tokens on open connections."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.road.api import Api
from tests.road.devices import Connect
from tests.road.server import Serve, Server
from tests.road.test_tokens import KEY, token
from tests.support import eventually


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"{KEY}\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def server(keys: Path) -> Iterator[Server]:
    it = Server("auth.mode=jwt", f"auth.keys_file={keys}", "auth.delayed=true", "auth.delayed_timeout=6s")
    try:
        yield it.start()
        assert it.stop() == 0
    finally:
        it.close()


@pytest.mark.parametrize("protocol", ["zpush.raw", "zpush.v1"])
async def test_the_first_message_says_who_it_is(
    server: Server, api: Api, connect: Connect, name: str, protocol: str
) -> None:
    device = await connect(server, subprotocols=[protocol])
    await device.connection.send(json.dumps({"auth": token(name)}))
    await eventually(partial(api.holds, name))
    assert await api.direct(name, "hello") == "delivered"
    assert "hello" in str(await device.receive())


async def test_who_says_nothing_is_closed_with_4001(server: Server, connect: Connect) -> None:
    device = await connect(server)
    assert await device.close_code() == 4001


@pytest.mark.parametrize(
    ("said", "code"),
    [("hello", 4001), ('{"ping":1}', 4001), ('{"auth":"nonsense"}', 1008), ('{"auth":1}', 1003), (b"\0", 4001)],
    ids=["no control message", "a ping", "a bad token", "no token", "binary"],
)
async def test_whoever_says_something_else_is_closed(
    server: Server, connect: Connect, said: str | bytes, code: int
) -> None:
    device = await connect(server)
    await device.connection.send(said)
    assert await device.close_code() == code
    assert device.connection.close_reason


async def test_a_newer_token_keeps_the_connection(server: Server, api: Api, connect: Connect, name: str) -> None:
    device = await connect(
        server, subprotocols=["zpush.v1"], headers={"Authorization": f"Bearer {token(name, ttl_s=8.0)}"}
    )
    await device.connection.send(json.dumps({"auth": token(name)}))
    assert await device.receive_json() == {"authenticated": True}
    short = await connect(server, headers={"Authorization": f"Bearer {token(name + '-short', ttl_s=8.0)}"})
    assert await short.close_code() == 4006, "a token of the same length has ended"
    assert await api.direct(name, "still here") == "delivered"


async def test_a_newer_token_cannot_be_another_clients(server: Server, connect: Connect, name: str) -> None:
    device = await connect(server, subprotocols=["zpush.v1"], headers={"Authorization": f"Bearer {token(name)}"})
    await device.connection.send(json.dumps({"auth": token("mallory")}))
    assert await device.close_code() == 1008


@pytest.mark.parametrize("users", [("alice", "bob"), ("alice", ""), ("", "bob")])
async def test_a_newer_token_cannot_be_another_users(
    server: Server, connect: Connect, name: str, users: tuple[str, str]
) -> None:
    """A device that changed hands connects anew: nothing of the one user's reaches the other."""
    first, second = (token(name, user=user) for user in users)
    device = await connect(server, subprotocols=["zpush.v1"], headers={"Authorization": f"Bearer {first}"})
    await device.connection.send(json.dumps({"auth": second}))
    assert await device.close_code() == 1008


async def test_a_worker_that_leaves_takes_no_newer_token(keys: Path, connect: Connect, serve: Serve, name: str) -> None:
    """The client goes hand over hand, instead of believing that it may stay."""
    leaving = serve("auth.mode=jwt", f"auth.keys_file={keys}", "connections.go_away_grace=20s")
    device = await connect(leaving, subprotocols=["zpush.v1"], headers={"Authorization": f"Bearer {token(name)}"})
    leaving.process.send_signal(signal.SIGTERM)
    assert (await device.receive_json())["go_away"]["reason"] == "shutdown"
    await device.connection.send(json.dumps({"auth": token(name)}))
    await device.connection.send(json.dumps({"ping": 1}))
    assert await device.receive_json() == {"pong": 1}
