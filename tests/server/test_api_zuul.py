"""Zuul Push's own interface for senders."""

from __future__ import annotations

import pytest

from tests.delivery.world import SECRET
from tests.server.api_world import World, zuul
from zpush.protocol.message import Outcome
from zpush.protocol.secure_token import SecureTokens


async def test_zuul_in_its_order_of_checks(world: World) -> None:
    assert await zuul(world, "PUT", "") == 405
    assert await zuul(world, "POST", "") == 401
    token = {"X-Zuul.push.secure.token": "wrong"}
    assert await zuul(world, "POST", "nobody", headers=token) == 404
    assert await zuul(world, "GET", "nobody") == 404
    assert await zuul(world, "POST", "c1", b"", headers=token) == 403
    assert await zuul(world, "GET", "c1", headers=token) == 403
    right = {"X-Zuul.push.secure.token": SecureTokens(SECRET).token("c3", world.registry.leases["c3"].epoch)}
    assert await zuul(world, "GET", "c3", headers=right) == 200
    assert await zuul(world, "POST", "c3", b"", headers=right) == 204
    assert await zuul(world, "GET", "c1", headers=right) == 403
    assert await zuul(world, "GET", "c1") == 200
    assert await zuul(world, "GET", "c3") == 200
    assert await zuul(world, "POST", "c1", b"") == 204
    assert await zuul(world, "POST", "c3", b"") == 204
    assert world.here.table.got == world.there.table.got == []
    assert await zuul(world, "POST", "c1") == 200
    assert await zuul(world, "POST", "c3") == 200
    assert (len(world.here.table.got), len(world.there.table.got)) == (1, 1)
    assert await zuul(world, "POST", "nobody") == 404


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(Outcome.RATE_LIMITED, 503), (Outcome.DROPPED, 500), (Outcome.REJECTED, 500), (Outcome.OFFLINE, 404)],
)
async def test_zuul_says_what_became_of_it(world: World, outcome: Outcome, status: int) -> None:
    world.here.table.answers["c1"] = outcome
    assert await zuul(world, "POST") == status
    assert world.counted(outcome) == 1


async def test_zuul_text_and_binary(world: World) -> None:
    assert await zuul(world, "POST", body=b"\xff") == 400
    binary = {"Content-Type": "application/octet-stream"}
    assert await zuul(world, "POST", body=b"\xff", headers=binary) == 200
    assert await zuul(world, "POST", body=b"x" * 65537, headers=binary) == 413
    assert await zuul(world, "POST", client="a" * 256) == 400


async def test_zuul_and_the_registry_away(world: World) -> None:
    world.registry.away = True
    assert await zuul(world, "POST", "c1") == 200
    assert await zuul(world, "POST", "c3") == 503
    assert await zuul(world, "GET", "c3") == 503
