from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.master.run import Run, new_run


@pytest.fixture
def run() -> Iterator[Run]:
    """A master not yet started; its children must be gone shortly after it."""
    with new_run() as it:
        yield it
