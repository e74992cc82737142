"""The owner of a replaced connection is told, also where that fails at first. Router and peers are played."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from zpush.delivery.peers import Peers
from zpush.delivery.router import Router
from zpush.errors import PeerUnreachable, RegistryUnavailable
from zpush.protocol.close import REPLACED
from zpush.registry.base import Lease, Node, NodeState
from zpush.server import replaced
from zpush.server.replaced import close_replaced

LEASE = Lease("c", "other", 7)
NODE = Node("other", "127.0.0.1:2", "local", NodeState.UP)


class Played:
    """Router and peers: the first calls fail. lives: how often the node is found, then it is dead."""

    def __init__(self, away: int = 0, unreachable: int = 0, lives: int = 100) -> None:
        self.away, self.unreachable, self.lives = away, unreachable, lives
        self.asked = 0
        self.closed: list[tuple[Any, ...]] = []
        self.dead: list[Lease] = []

    async def node(self, node_id: str) -> Node | None:
        self.asked += 1
        if self.asked <= self.away:
            raise RegistryUnavailable("away")
        return NODE if self.asked <= self.lives else None

    async def is_dead(self, node_id: str) -> bool:
        return True

    def close(self, *call: Any) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self.asked <= self.unreachable:
            future.set_exception(PeerUnreachable("no answer"))
        else:
            self.closed.append(call)
            future.set_result(True)
        return future

    async def told(self) -> None:
        await close_replaced(LEASE, cast(Router, self), cast(Peers, self), self.dead.append)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaced, "PAUSES_S", (0.0, 0.0, 0.0))


@pytest.mark.parametrize("trouble", [{}, {"away": 2}, {"unreachable": 3}])
async def test_it_is_told_once_however_often_that_failed(trouble: dict[str, int]) -> None:
    world = Played(**trouble)
    await world.told()
    assert world.closed == [(NODE, "c", 7, REPLACED)] and world.dead == []


async def test_one_that_dies_meanwhile_is_not_called_again() -> None:
    world = Played(unreachable=9, lives=1)
    await world.told()
    assert world.closed == [] and world.dead == [LEASE] and world.asked == 2


async def test_it_ends() -> None:
    world = Played(unreachable=100)
    await world.told()
    assert world.asked == 4 and world.closed == [] and world.dead == []
