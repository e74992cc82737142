from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests._fast.engine_support import EngineLimits, Harness

MakeHarness = Callable[..., Harness]


@pytest.fixture
async def harness() -> AsyncIterator[MakeHarness]:
    """harness(capacity=…, echo=…, <limit>=…): an engine; when it is disposed of, allocated must equal freed."""
    made: list[Harness] = []

    def make(capacity: int = 4096, echo: bool = False, **limits: Any) -> Harness:
        made.append(Harness(EngineLimits(**limits), capacity, echo))
        return made[-1]

    yield make
    for each in made:
        each.close()
        assert each.row.get("allocated") == each.row.get("freed")
        assert each.engine.connections == 0
        assert each.row.get("connections_websocket") == each.row.get("connections_sse") == 0
