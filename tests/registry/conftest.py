"""The registry runs in workers (uvloop) and in plain asyncio programs: both, for every test here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from zpush.registry import redis


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a server may take longer than a handshake waits; what it carries out then counts as late."""
    monkeypatch.setattr(redis, "IN_TIME_MS", 60_000)
