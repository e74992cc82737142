"""The engine itself (zpush/_fast), under scripts of bytes, ends, time and calls, some from within callbacks."""

from __future__ import annotations

from typing import Any

from tests.fuzz.engine_rest import check_at_rest, check_disposed, sockets
from tests.fuzz.engine_script import SCRIPTS, Step
from tests.fuzz.engine_world import World
from tests.fuzz.target import Target


def check(script: tuple[tuple[Any, ...], tuple[Step, ...]]) -> None:
    """Handles, tokens, order, outcomes and bytes are what the contract says; memory and descriptors are given back."""
    setup, steps = script
    before = sockets()
    world = World(*setup)
    try:
        for step in steps:
            world.step(step)
        check_at_rest(world)
        check_disposed(world)
    finally:
        world.close()
    assert sockets() == before, "a descriptor was kept"


TARGET = Target("engine", SCRIPTS, check, 60)
