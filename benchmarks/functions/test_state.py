"""What a worker keeps of its connections: ids and deadlines. Against a dict and a list."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from zpush._fast.table import Table
from zpush._fast.wheel import Wheel

CONNECTIONS = 100_000
SLOTS = 250_000
IDS = [b"client-%013d" % i for i in range(CONNECTIONS)]
SOME = IDS[::100]


@pytest.fixture(scope="module")
def table() -> Table:
    full = Table(CONNECTIONS + 1, 1, 2)
    for slot, each in enumerate(IDS):
        full.bind(slot, each)
    return full


def test_find(benchmark: BenchmarkFixture, table: Table) -> None:
    benchmark.group = "find 1,000 of 100,000 ids"
    assert benchmark(lambda: [table.find(each) for each in SOME])[1] == 100


def test_find_in_dict(benchmark: BenchmarkFixture) -> None:
    """Its keys cost a Python object each."""
    benchmark.group = "find 1,000 of 100,000 ids"
    known = {each: slot for slot, each in enumerate(IDS)}
    assert benchmark(lambda: [known[each] for each in SOME])[1] == 100


def test_bind_and_unbind(benchmark: BenchmarkFixture, table: Table) -> None:
    benchmark.group = "bind and unbind an id"

    def bind() -> bool:
        table.bind(CONNECTIONS, b"one more of 20 bytes")
        return table.unbind(CONNECTIONS)

    assert benchmark(bind)


@pytest.mark.parametrize("due", [0, 1000])
def test_sweep(benchmark: BenchmarkFixture, due: int) -> None:
    """A second of 250,000 deadlines; `due` of them come due."""
    benchmark.group = "sweep 250,000 deadlines"
    wheel = Wheel(SLOTS)

    def arm() -> tuple[tuple[int], dict[str, int]]:
        for slot in range(SLOTS):
            wheel.arm(slot, 1 if slot < due else 30_000)
        return (1,), {}

    found = benchmark.pedantic(wheel.sweep, setup=arm, rounds=20)  # type: ignore[no-untyped-call]
    assert len(found) == due


def test_sweep_a_list(benchmark: BenchmarkFixture) -> None:
    """Deadlines as numbers in a list, compared."""
    benchmark.group = "sweep 250,000 deadlines"
    deadlines = [30_000.0] * SLOTS
    assert benchmark(lambda: [i for i, at in enumerate(deadlines) if at <= 1.0]) == []
