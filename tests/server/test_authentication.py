"""Reloads that come while an earlier one still fetches its keys, in every order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from tests.support import eventually
from zpush.auth.base import Authenticator, Identity
from zpush.protocol.handshake import Request
from zpush.server.authentication import Authentication


class Slow(Authenticator):
    """Started when the test says so (ready), or not at all (error)."""

    def __init__(self, error: Exception | None = None) -> None:
        self.ready = asyncio.Event()
        self.learned_from: Authenticator | None = None
        self.starting = False
        self.stopped = 0
        self._error = error

    def authenticate(self, request: Request) -> Identity:
        raise NotImplementedError

    def take_over(self, old: Authenticator) -> None:
        self.learned_from = old

    async def start(self) -> None:
        self.starting = True
        await self.ready.wait()
        if self._error is not None:
            raise self._error

    async def stop(self) -> None:
        self.stopped += 1


class World:
    def __init__(self) -> None:
        self.first = Slow()
        self.used: list[Authenticator] = []
        self.it = Authentication(self.first, self.used.append)

    async def replace(self, authenticator: Slow) -> Slow:
        """It is being started."""
        self.it.replace(authenticator)
        await eventually(lambda: authenticator.starting, "it is started")
        return authenticator


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    world.first.ready.set()
    await world.it.start()
    yield world
    await world.it.stop()


async def test_an_older_reload_that_is_ready_last_is_stopped_unused(world: World) -> None:
    older, newer = await world.replace(Slow()), await world.replace(Slow())
    newer.ready.set()
    await eventually(lambda: world.first.stopped, "its place is taken")
    older.ready.set()
    await eventually(lambda: older.stopped, "it is too late")
    assert world.used == [newer] and newer.learned_from is world.first
    assert world.first.stopped == 1 and not newer.stopped


async def test_an_older_reload_that_is_ready_first_is_not_used_either(world: World) -> None:
    older, newer = await world.replace(Slow()), await world.replace(Slow())
    older.ready.set()
    await eventually(lambda: older.stopped, "it is out of date")
    assert not world.used
    newer.ready.set()
    await eventually(lambda: world.first.stopped, "its place is taken")
    assert world.used == [newer]


async def test_each_learns_from_the_one_whose_place_it_takes(world: World) -> None:
    first = await world.replace(Slow())
    first.ready.set()
    await eventually(lambda: world.used == [first], "the first reload")
    second = await world.replace(Slow())
    assert (first.learned_from, second.learned_from) == (world.first, first)


async def test_one_that_cannot_start_is_told_and_changes_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    bad = await world.replace(Slow(OSError("no such certificate")))
    with caplog.at_level(logging.ERROR, "zpush"):
        bad.ready.set()
        await eventually(lambda: "no such certificate" in caplog.text, "the log says why")
    assert bad.stopped and not world.used and not world.first.stopped


async def test_the_end_stops_all_also_those_that_were_never_ready() -> None:
    world = World()
    world.first.ready.set()
    await world.it.start()
    never = await world.replace(Slow())
    await world.it.stop()
    assert [each.stopped for each in (world.first, never)] == [1, 1]


async def test_a_reload_before_the_start() -> None:
    """The process waits for its registry, and HUP comes: the first authenticator is not needed any more."""
    world = World()
    second = await world.replace(Slow())
    second.ready.set()
    await eventually(lambda: world.used, "it is in use")
    await world.it.start()
    assert not world.first.starting
    await world.it.stop()
    assert second.stopped == 1
