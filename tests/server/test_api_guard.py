"""Who may call the API: keys, their purposes, and pages of others where there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.server.api_world import KEY, World, api_world, with_api, zuul
from tests.server.raw_http import connected
from zpush.server.api_guard import Guard


@pytest.fixture
async def keyed() -> AsyncIterator[World]:
    async with api_world(with_api(keys=(KEY, KEY + "-2"), bind="0.0.0.0:0")) as world:
        yield world


@pytest.mark.parametrize(
    ("authorization", "allowed"),
    [
        (f"Bearer {KEY}", True),
        (f"bearer {KEY}-2", True),
        (f"Bearer {KEY}-3", False),
        (f"Bearer {KEY[:-1]}", False),
        (f"Basic {KEY}", False),
        ("Bearer", False),
        (KEY, False),
        (None, False),
    ],
)
async def test_keys(keyed: World, authorization: str | None, allowed: bool) -> None:
    headers = {"Authorization": authorization} if authorization is not None else {}
    for path in ("/v1/nodes", "/metrics", "/v1/clients/c1"):
        response = await keyed.http.get(path, headers=headers)
        assert response.status_code == (200 if allowed else 401)
        assert KEY not in response.text
    push = await keyed.http.post("/v1/push", json={"to": {"client": "c1"}, "text": "x"}, headers=headers)
    assert push.status_code == (202 if allowed else 401)
    assert len(keyed.queue.messages) == (1 if allowed else 0)
    assert (await keyed.http.get("/healthz", headers=headers)).status_code == 200


async def test_a_second_authorization_header_is_never_the_one_believed(keyed: World) -> None:
    headers = [("Authorization", "Bearer wrong"), ("Authorization", f"Bearer {KEY}")]
    assert (await keyed.http.get("/v1/nodes", headers=headers)).status_code == 401


async def test_with_a_key_any_host_origin_and_content_type_will_do(keyed: World) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Host": "push.example", "Origin": "https://a.example"}
    body = b'{"to":{"client":"c1"},"text":"x"}'
    assert (await keyed.http.post("/v1/push", content=body, headers=headers)).status_code == 202


async def test_a_refused_sender_is_told_before_the_body(keyed: World) -> None:
    async with connected(keyed.port) as client:
        client.send(b"POST /v1/push HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 60000\r\n\r\n")
        assert (await client.answer()).status == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Host": "localhost:8081"}, 202),
        ({"Host": "127.9.9.9"}, 202),
        ({"Host": "[::1]:8081"}, 202),
        ({"Host": "[::1]"}, 202),
        ({"Host": "localhost:"}, 202),
        ({"Host": "[::1]evil"}, 403),
        ({"Host": "[::1]evil:8081"}, 403),
        ({"Host": "[::1].evil.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "localhost:8081.evil.example"}, 403),
        ({"Host": "localhost:8081@evil.example"}, 403),
        ({"Host": "127.0.0.1:8081:8081"}, 403),
        ({"Host": ":8081"}, 403),
        ({"Host": "localhost:8081", "Origin": "http://localhost:8081"}, 202),
        ({"Host": "evil.example:8081"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
        ({"Host": "localhost:8081", "Origin": "http://localhost:3000"}, 403),
        ({"Host": "localhost:8081", "Origin": "https://evil.example"}, 403),
        ({"Host": "localhost:8081", "Origin": "null"}, 403),
        ({"Content-Type": "application/json; charset=utf-8"}, 202),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": ""}, 415),
    ],
)
async def test_without_keys_pages_of_others_may_not_push(world: World, headers: dict[str, str], status: int) -> None:
    sent = {"Content-Type": "application/json", **headers}
    response = await world.http.post("/v1/push", content=b'{"to":{"client":"c1"},"text":"x"}', headers=sent)
    assert response.status_code == status
    assert len(world.queue.messages) == (status == 202)


async def test_without_keys_pages_of_others_may_not_read(world: World) -> None:
    for path in ("/v1/nodes", "/metrics", "/v1/clients/c1"):
        assert (await world.http.get(path, headers={"Host": "evil.example"})).status_code == 403
        assert (await world.http.get(path, headers={"Origin": "http://evil.example"})).status_code == 403


def test_an_api_that_others_reach_needs_a_key() -> None:
    with pytest.raises(ValueError, match="key"):
        Guard((), "0.0.0.0")
    Guard((KEY,), "0.0.0.0")
    Guard((), "127.0.0.1")


@pytest.mark.parametrize(
    ("purpose", "allowed"),
    [
        ("", {"push", "zuul push", "zuul presence", "read", "operate"}),
        ("push", {"push", "zuul push", "zuul presence"}),
        ("read", {"zuul presence", "read"}),
        ("operate", {"zuul presence", "read", "operate"}),
    ],
)
async def test_a_key_may_be_for_one_purpose_only(purpose: str, allowed: set[str]) -> None:
    entry = f"{purpose}:{KEY}" if purpose else KEY
    settings = with_api(keys=(entry, "read:another-key-of-sixteen"))
    async with api_world(settings, Authorization=f"Bearer {KEY}") as world:
        answers = {
            "push": (await world.http.post("/v1/push", json={"to": {"client": "c1"}, "text": "x"})).status_code,
            "zuul push": await zuul(world, "POST", "c1"),
            "zuul presence": await zuul(world, "GET", "c1"),
            "read": (await world.http.get("/v1/nodes")).status_code,
            "operate": (await world.http.delete("/v1/clients/nobody")).status_code,
        }
    assert {name for name, status in answers.items() if status != 403} == allowed
    assert 401 not in answers.values()
