from __future__ import annotations

import pytest

from tests.support import run


@pytest.fixture(scope="session")
def native() -> None:
    """floor and load, compiled as `make bench` does, and what bench-check needs."""
    done = run("make", "-s", "build/bench/floor", "build/bench/load", "build/bench/callgrind.so", timeout_s=120)
    assert done.returncode == 0, done.stderr
