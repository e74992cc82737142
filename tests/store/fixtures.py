"""Topologies of real servers, one of each for the whole test run: made at first use, healed before each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.store.servers import VALKEY, debian_redis
from tests.store.topologies import Cluster, Sentinels, Standalone, Topology
from tests.support import lacking

KINDS = ("valkey", "redis", "sentinels", "cluster")  # Redis's Sentinels and cluster are for the tests that name them


def _make(kind: str) -> Topology:
    binary = debian_redis() if kind.startswith("redis") else VALKEY
    if binary is None:
        lacking("redis-server is not installed (Debian: apt-get install redis-tools)")
    if kind.endswith("sentinels"):
        return Sentinels(binary)
    if kind.endswith("cluster"):
        return Cluster(binary)
    return Standalone(binary)


@pytest.fixture(scope="session")
def topologies() -> Iterator[Callable[[str], Topology]]:
    """By kind: one of KINDS, "redis sentinels" or "redis cluster"."""
    made: dict[str, Topology] = {}

    def get(kind: str) -> Topology:
        if kind not in made:
            made[kind] = _make(kind)
            made[kind].start()
        made[kind].heal()
        return made[kind]

    yield get
    for topology in made.values():
        topology.stop()


@pytest.fixture(params=KINDS)
def topology(request: pytest.FixtureRequest, topologies: Callable[[str], Topology]) -> Topology:
    """Each kind in turn: what holds for one holds for all."""
    return topologies(request.param)


@pytest.fixture
def cluster(topologies: Callable[[str], Topology]) -> Cluster:
    found = topologies("cluster")
    assert isinstance(found, Cluster)
    return found


@pytest.fixture
def sentinels(topologies: Callable[[str], Topology]) -> Sentinels:
    found = topologies("sentinels")
    assert isinstance(found, Sentinels)
    return found
