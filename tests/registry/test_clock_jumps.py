"""The wall clock of a box jumps, ahead and back: no device is lost to anybody, and the newest connection wins."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.registry.support import registry_at
from tests.store.topologies import Topology
from zpush.registry.base import Lease, Node, NodeState, Registration, Renewal

A, B = "aaaaaaaaaa", "bbbbbbbbbb"
JUMP_MS = 30 * 60_000  # more than any lease lasts here
DEVICES = {"phone", "laptop"}

Jump = Callable[[int], None]


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Jump:
    """jump(ms): this process's wall clock is off by so much; the server's is not."""
    real_ns = time.time_ns

    def to(ms: int) -> None:
        monkeypatch.setattr(time, "time_ns", lambda: real_ns() + ms * 1_000_000)
        monkeypatch.setattr(time, "time", lambda: real_ns() / 1e9 + ms / 1000)

    return to


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.mark.parametrize("by_ms", [JUMP_MS, -JUMP_MS], ids=["ahead", "behind"])
@pytest.mark.parametrize("what", ["reads", "registers", "renews"])
async def test_a_box_whose_clock_is_wrong_expires_nobody_elses_devices(
    topology: Topology, jump: Jump, what: str, by_ms: int
) -> None:
    async with registry_at(topology.url) as (registry, _):
        for device in DEVICES:
            await registry.register(device, "ann", A, now_ms())
        jump(by_ms)
        found = set(await registry.user_clients("ann"))
        if what == "registers":
            await registry.register("tv", "ann", B, now_ms())
        elif what == "renews":
            await registry.register("tv", "", B, now_ms())
            assert await registry.renew([Lease("tv", B, now_ms(), "ann")])
        jump(0)
        assert found == DEVICES, "by the one that is wrong"
        assert set(await registry.user_clients("ann")) >= DEVICES, "and by the others afterwards"


@pytest.mark.parametrize("by_ms", [JUMP_MS, -JUMP_MS], ids=["ahead", "behind"])
async def test_what_such_a_box_enters_is_found_as_long_as_any_other(topology: Topology, jump: Jump, by_ms: int) -> None:
    async with registry_at(topology.url) as (registry, store):
        jump(by_ms)
        await registry.register("tv", "ann", B, now_ms())
        jump(0)
        await registry.register("phone", "ann", A, now_ms())
        assert set(await registry.user_clients("ann")) == {"tv", "phone"}
        [tv, phone] = [float(await store.call("t:user:ann", "ZSCORE", "t:user:ann", each)) for each in ("tv", "phone")]
        assert tv <= phone, "both by the server's clock, in which one was entered after the other"
        assert phone - tv < JUMP_MS / 2


async def test_the_newest_handshake_wins_and_keeps_its_lease_however_clocks_jump(
    topology: Topology, jump: Jump
) -> None:
    async with registry_at(topology.url) as (registry, _):
        held: list[Lease] = []
        for number, by_ms in enumerate([0, JUMP_MS, -JUMP_MS, 0, -2 * JUMP_MS, JUMP_MS]):
            jump(by_ms)
            node_id = (A, B)[number % 2]
            answer = await registry.register("c", "ann", node_id, now_ms())
            assert isinstance(answer, Registration)
            assert answer.replaced == (held[-1] if held else None), "so a peer close names the older one"
            held.append(Lease("c", node_id, answer.epoch, "ann"))
            assert await registry.renew([held[-1]]) == [Renewal.EXTENDED]
            for older in held[:-1]:
                assert await registry.renew([older]) == [held[-1]]
                assert not await registry.remove(older)
        assert [each.epoch for each in held] == sorted({each.epoch for each in held})
        assert await registry.user_clients("ann") == {"c": held[-1]}


@pytest.mark.parametrize("by_ms", [JUMP_MS, -JUMP_MS], ids=["ahead", "behind"])
async def test_nodes_live_whatever_the_clock_of_who_asks_or_says_so(topology: Topology, jump: Jump, by_ms: int) -> None:
    async with registry_at(topology.url) as (registry, _):
        await registry.announce(Node(A, "10.0.0.1:8100", "eu", NodeState.REPAIRING))  # as on every new registry
        await registry.announce(Node(A, "10.0.0.1:8100", "eu", NodeState.UP))
        jump(by_ms)
        await registry.announce(Node(B, "10.0.0.2:8100", "eu", NodeState.UP))
        assert set(await registry.nodes()) == {A, B}
        jump(0)
        assert set(await registry.nodes()) == {A, B}
        assert await registry.whole()
