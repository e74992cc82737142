"""Background tasks, and those that a turn of the loop shares."""

from __future__ import annotations

import asyncio
import logging

import pytest

from zpush.tasks import Tasks, Turn

LOG = logging.getLogger("zpush.test")


async def test_what_comes_in_one_turn_is_worked_off_together() -> None:
    tasks = Tasks(LOG)
    seen: list[list[int]] = []
    more = asyncio.Event()

    async def work(items: list[int]) -> None:
        seen.append(items)
        await more.wait()

    turn: Turn[int] = Turn(tasks, work)
    for i in range(3):
        turn.add(i)
    assert seen == []
    await asyncio.sleep(0)
    turn.add(3)  # the first three are still being worked on
    await asyncio.sleep(0)
    assert seen == [[0, 1, 2], [3]]
    more.set()
    await tasks.wait(10)


async def test_a_failure_is_logged_and_the_next_turn_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks(LOG)
    seen: list[int] = []

    async def work(items: list[int]) -> None:
        if 1 in items:
            raise ValueError("one")
        seen.extend(items)

    turn: Turn[int] = Turn(tasks, work)
    turn.add(1)
    await asyncio.sleep(0)
    turn.add(2)
    await tasks.wait(10)
    assert seen == [2]
    assert "a background task failed" in caplog.text
    assert "ValueError: one" in caplog.text
