"""auth.mode jwt: a token in every place where it may come, and the refusals."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import jwt
import pytest
from websockets.exceptions import InvalidStatus

from tests.road.api import Api
from tests.road.devices import Connect, open_stream
from tests.road.raw import found
from tests.road.server import Server
from tests.support import run_zpush

OWN_KEY = b"whoever makes a token may put a key in"
OWN_KEY_IN_JWK = base64.urlsafe_b64encode(OWN_KEY).rstrip(b"=").decode()
KEY = "a key of at least thirty-two bytes, for tests"


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"# signs\n{KEY}\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def server(keys_file: Path) -> Iterator[Server]:
    it = Server("auth.mode=jwt", f"auth.keys_file={keys_file}", "auth.query_token=true", "auth.leeway=0s")
    try:
        yield it.start()
        assert KEY not in it.log.read_text()
        assert it.stop() == 0
    finally:
        it.close()


def token(client_id: str, user: str = "", *, ttl_s: float = 3600.0, key: str = KEY) -> str:
    claims = {"sub": client_id, "exp": int(time.time() + ttl_s), **({"uid": user} if user else {})}
    return jwt.encode(claims, key, "HS256")


@pytest.mark.parametrize("place", ["header", "subprotocol", "cookie", "query"])
async def test_a_token_is_found_where_it_may_be(
    server: Server, api: Api, connect: Connect, name: str, place: str
) -> None:
    signed = token(name, f"{name}-user")
    match place:
        case "header":
            device = await connect(server, headers={"Authorization": f"Bearer {signed}"}, known_as=name)
        case "subprotocol":
            device = await connect(server, subprotocols=["zpush.v1", f"zpush.token.{signed}"], known_as=name)
            assert device.connection.subprotocol == "zpush.v1"
        case "cookie":
            device = await connect(server, headers={"Cookie": f"a=b; zpush={signed}"}, known_as=name)
        case "query":
            device = await connect(server, token=signed, known_as=name)
    assert await api.direct(name, "hello") == "delivered"
    assert "hello" in str(await device.receive())
    assert (await api.get(f"/v1/clients/{name}"))["user"] == f"{name}-user"


async def test_an_event_stream_takes_a_token(server: Server, api: Api, name: str) -> None:
    async with open_stream(server, "", Authorization=f"Bearer {token(name)}") as stream:
        await found(server, name)
        assert await api.direct(name, "hello") == "delivered"
        assert (await stream.receive()).data == "hello"


async def test_the_command_signs_tokens(server: Server, api: Api, connect: Connect, keys_file: Path, name: str) -> None:
    printed = run_zpush("token", name, "--user", "u", "--set", "auth.mode=jwt", "--set", f"auth.keys_file={keys_file}")
    assert printed.returncode == 0, printed.stderr
    await connect(server, headers={"Authorization": f"Bearer {printed.stdout.strip()}"}, known_as=name)
    assert await api.direct(name, "hello") == "delivered"


@pytest.mark.parametrize(
    "signed",
    [
        "",
        "no.token.atall",
        token("c", ttl_s=-60.0),
        token("c", key="another key of at least thirty-two bytes"),
        jwt.encode({"sub": "c", "exp": 2**33, "nbf": 2**32}, KEY, "HS256"),
        jwt.encode({"sub": "c", "exp": 2**33}, None, "none"),
        jwt.encode({"sub": "c", "exp": 2**33}, OWN_KEY, "HS256", {"jwk": {"kty": "oct", "k": OWN_KEY_IN_JWK}}),
        jwt.encode({"sub": "c"}, KEY, "HS256"),
        jwt.encode({"exp": 2**33}, KEY, "HS256"),
    ],
    ids=[
        "none",
        "nonsense",
        "expired",
        "of another key",
        "from the future",
        "unsigned",
        "with its own key inside",
        "without exp",
        "without sub",
    ],
)
async def test_other_tokens_are_refused(server: Server, connect: Connect, signed: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(server, "c", headers={"Authorization": f"Bearer {signed}"} if signed else None)
    assert refused.value.response.status_code == 401
    async with httpx.AsyncClient(base_url=f"http://{server.clients}", trust_env=False) as client:
        response = await client.get("/sse", params={"client": "c", "token": signed})
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
    assert not signed or signed not in server.log.read_text()


async def test_a_token_of_64_kib_is_refused_unread(server: Server, api: Api, connect: Connect, name: str) -> None:
    """It does not even fit into a head; how many of its bytes would be looked at is tested in tests/auth."""
    settled = await connect(server, headers={"Authorization": f"Bearer {token(name)}"}, known_as=name)
    with pytest.raises(InvalidStatus) as refused:
        await connect(server, headers={"Authorization": "Bearer " + "a" * 65_536})
    assert refused.value.response.status_code == 431
    assert await api.direct(name, "hello") == "delivered"
    assert await settled.receive() == "hello"


async def test_a_connection_does_not_outlive_its_token(server: Server, connect: Connect, name: str) -> None:
    device = await connect(server, headers={"Authorization": f"Bearer {token(name, ttl_s=5.0)}"})
    assert await device.rest() == ["_CLOSE_"], "it is asked to go first"
    assert await device.close_code() == 4006
