"""A token that ends: the open connection is shown a newer one, and left hand over hand where that is not taken."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from tests.client.servers import Sleeps, States, go_away, push, says, take, websocket_server
from tests.road.api import Api
from tests.road.server import Server
from tests.road.test_tokens import KEY, token
from tests.support import eventually
from zpush.client import Client, State, Stopped
from zpush.errors import Unavailable

ENDS = go_away(0, "token_expires")
TAKEN = '{"authenticated":true}'
NOTHING_NEW = [State.CONNECTING, State.OPEN, State.STOPPED]


class Tokens:
    """For Client(token=…): t1, t2, …; an exception in between is raised, None answered."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers) or [f"t{i}" for i in range(1, 9)]
        self.asked = 0

    def __call__(self) -> Any:
        answer = self._answers[self.asked]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        return answer


def ends(answer: Callable[[ServerConnection], Any]) -> Any:
    """A script: the token ends, the client shows the newer one, and this is what the server does."""

    async def script(connection: ServerConnection) -> None:
        await connection.send(ENDS)
        shown.append(json.loads(await connection.recv()))
        await answer(connection)
        await connection.wait_closed()

    shown: list[dict[str, str]] = []
    script.shown = shown  # type: ignore[attr-defined]
    return script


async def test_a_newer_token_keeps_the_connection() -> None:
    async def take_it(connection: ServerConnection) -> None:
        await connection.send(TAKEN)
        await connection.send(ENDS)
        script.shown.append(json.loads(await connection.recv()))
        await connection.send(TAKEN)
        await connection.send(push("1", "still here"))

    script, tokens, states = ends(take_it), Tokens(), States()
    async with websocket_server(script) as server, Client(server.url, token=tokens, on_state=states) as client:
        assert await take(client, 1) == ["still here"]
    assert script.shown == [{"auth": "t2"}, {"auth": "t3"}]
    assert (tokens.asked, server.opened, states.told) == (3, 1, NOTHING_NEW)


async def test_the_server_says_when() -> None:
    """As with every go-away, so that a herd does not fall upon the signer."""
    sleeps = Sleeps()

    async def script(connection: ServerConnection) -> None:
        await connection.send(go_away(1234, "token_expires"))
        await connection.recv()
        await connection.send(TAKEN)
        await connection.send(push("1", 1))
        await connection.wait_closed()

    async with websocket_server(script) as server, Client(server.url, token=Tokens(), sleep=sleeps) as client:
        await take(client, 1)
    assert sleeps.asked_s == [1.234]


async def test_a_server_that_does_not_take_it_is_left_hand_over_hand() -> None:
    async def script(connection: ServerConnection) -> None:
        await connection.send(go_away(1234, "token_expires"))
        await connection.recv()
        await connection.send(push("1", "old"))
        await connection.wait_closed()

    tokens, states, sleeps = Tokens(), States(), Sleeps()
    async with (
        websocket_server(script, says(push("2", "new"))) as server,
        Client(server.url, token=tokens, on_state=states, sleep=sleeps) as client,
    ):
        assert await take(client, 2) == ["old", "new"]
    assert sleeps.asked_s == [1.234], "there is no time to lose any more"
    assert tokens.asked == 2, "the one that was shown is good for the next connection"
    assert server.seen[1]["authorization"] == "Bearer t2"
    assert states.told == [State.CONNECTING, State.OPEN, State.HANDING_OVER, State.OPEN, State.STOPPED]


@pytest.mark.parametrize("code", [1008, 4006])
async def test_a_server_that_refuses_it_gets_another(code: int) -> None:
    script, tokens = ends(lambda connection: connection.close(code)), Tokens()
    async with (
        websocket_server(script, says(push("1", "in"))) as server,
        Client(server.url, token=tokens, sleep=Sleeps()) as client,
    ):
        assert await take(client, 1) == ["in"]
    assert server.seen[1]["authorization"] == "Bearer t3"


async def test_an_operator_ends_it_meanwhile() -> None:
    script = ends(lambda connection: connection.close(4005))
    async with websocket_server(script) as server, Client(server.url, token=Tokens()) as client:
        with pytest.raises(Stopped) as stopped:
            await take(client, 1)
    assert (stopped.value.code, server.opened) == (4005, 1)


async def test_a_signer_that_is_away_is_asked_again_by_the_hand_over() -> None:
    tokens, sleeps = Tokens("t1", Unavailable("away"), OSError(), "t2"), Sleeps()
    async with (
        websocket_server(says(ENDS), says(push("1", "new"))) as server,
        Client(server.url, token=tokens, sleep=sleeps) as client,
    ):
        assert await take(client, 1) == ["new"]
    assert server.seen[1]["authorization"] == "Bearer t2"


async def test_without_a_token_the_old_connection_is_the_last() -> None:
    async def last_words(connection: ServerConnection) -> None:
        await connection.send(ENDS)
        await connection.send(push("1", "last words"))
        await eventually(lambda: tokens.asked >= 2)
        await connection.close(4006)

    tokens = Tokens("t1", None, None, None)
    async with websocket_server(last_words) as server, Client(server.url, token=tokens) as client:
        assert await take(client, 1) == ["last words"]
        with pytest.raises(Stopped, match="no token"):
            await take(client, 1)
    assert server.opened == 1


async def test_a_fixed_token_is_not_shown_again() -> None:
    heard: list[str | bytes] = []

    async def script(connection: ServerConnection) -> None:
        await connection.send(ENDS)
        async for message in connection:
            heard.append(message)

    async with (
        websocket_server(script, says(push("1", "new"))) as server,
        Client(server.url, token="fixed", sleep=Sleeps()) as client,
    ):
        assert await take(client, 1) == ["new"]
    assert (heard, server.seen[1]["authorization"]) == ([], "Bearer fixed")


# ---- a real server

TTL_S = 5.0  # the go-away comes 4 s before the end


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"{KEY}\n")
    path.chmod(0o600)
    it = Server("auth.mode=jwt", f"auth.keys_file={path}", "connections.go_away_grace=4s")
    try:
        yield it.start()
    finally:
        it.close()


async def test_a_real_server_takes_it(server: Server, api: Api, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tokens that end soon, and one that does not."""
    monkeypatch.setattr("zpush.client.client.RENEW_S", 5.0)  # a busy machine
    tokens, states = Tokens(token(name, ttl_s=TTL_S), token(name, ttl_s=TTL_S + 2), token(name)), States()
    async with Client(f"ws://{server.clients}", token=tokens, on_state=states) as client:
        await client.wait_open()
        epoch = (await api.get(f"/v1/clients/{name}"))["epoch"]
        await eventually(lambda: tokens.asked == 3, "the third token")
        assert await api.direct(name, "hello") == "delivered"
        assert await take(client, 1) == ["hello"]
        assert (await api.get(f"/v1/clients/{name}"))["epoch"] == epoch, "one connection"
    assert states.told == NOTHING_NEW
