"""The table against two plain dicts, and its hash against the interpreter's own."""

from __future__ import annotations

import gc
import itertools
import os
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zpush._fast import table
from zpush._fast.table import Table, siphash13


class Model:
    """The contract with dicts: who leads where, and what each slot was bound with."""

    def __init__(self) -> None:
        self.slots: dict[bytes, int] = {}
        self.idents: dict[int, tuple[bytes, bytes]] = {}

    def bind(self, slot: int, client: bytes, user: bytes) -> int:
        self.unbind(slot)
        earlier = self.slots.get(client, -1)
        self.slots[client] = slot
        self.idents[slot] = (client, user)
        return earlier

    def unbind(self, slot: int) -> bool:
        client = self.idents.pop(slot, (None, b""))[0]
        if client is None or self.slots.get(client) != slot:
            return False
        del self.slots[client]
        return True

    def check(self, ours: Table, capacity: int) -> None:
        assert len(ours) == len(self.slots)
        assert ours.blob_bytes == sum(2 + len(client) + len(user) for client, user in self.idents.values())
        assert [ours.ids(slot) for slot in range(capacity)] == [self.idents.get(slot) for slot in range(capacity)]
        for client, _ in self.idents.values():
            assert ours.find(client) == self.slots.get(client, -1)


def colliding(count: int, seed: tuple[int, int], homes: tuple[int, ...] = (62, 63)) -> list[bytes]:
    """Ids whose home among the first 64 cells is one of `homes`: their run goes round the end of the array."""
    names = (b"%d" % n for n in itertools.count())
    return list(itertools.islice((n for n in names if siphash13(n, *seed) >> 32 & 63 in homes), count))


CAPACITY = 8  # few slots and few ids, so that ids are replaced and runs collide often
POOL = [b"", b"x" * 255, b"a\0b", b"a\0c", *colliding(5, (1, 2))]
STEPS = st.one_of(
    st.tuples(st.integers(0, CAPACITY - 1), st.sampled_from(POOL), st.binary(max_size=4)),
    st.tuples(st.integers(0, CAPACITY - 1), st.none(), st.just(b"")),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(STEPS, max_size=80))
def test_any_sequence_is_that_of_a_dict(steps: list[tuple[int, bytes | None, bytes]]) -> None:
    ours, model = Table(CAPACITY, 1, 2), Model()
    for slot, client, user in steps:
        if client is None:
            assert ours.unbind(slot) == model.unbind(slot)
        else:
            assert ours.bind(slot, client, user) == model.bind(slot, client, user)
        model.check(ours, CAPACITY)
    assert all(ours.find(client) == model.slots.get(client, -1) for client in POOL)


def test_removal_out_of_one_run_in_every_order() -> None:
    """Six ids of two homes at the array's end: whatever goes first, the others stay reachable."""
    clients = colliding(6, (1, 2))
    for order in itertools.permutations(range(6)):
        ours = Table(6, 1, 2)
        for slot, client in enumerate(clients):
            ours.bind(slot, client)
        for gone, slot in enumerate(order, 1):
            assert ours.unbind(slot)
            found = {s for s, client in enumerate(clients) if ours.find(client) == s}
            assert found == set(order[gone:])


def test_it_grows_and_churns_at_size() -> None:
    chance, size = random.Random(3), 20_000
    ours, model = Table(size, 5, 6), Model()
    for slot in range(size):
        assert ours.bind(slot, b"client-%d" % slot, b"user") == model.bind(slot, b"client-%d" % slot, b"user")
    assert ours.cells * 3 >= size * 4 and ours.cells <= 65_536
    for _ in range(60_000):
        slot = chance.randrange(size)
        if chance.random() < 0.5:
            assert ours.unbind(slot) == model.unbind(slot)
        else:
            client = b"client-%d" % chance.randrange(size)
            assert ours.bind(slot, client) == model.bind(slot, client, b"")
    model.check(ours, size)


def test_the_last_bind_wins_and_an_old_close_takes_nothing_away() -> None:
    ours = Table(4)
    assert ours.bind(0, b"demo", b"ann") == -1
    assert ours.bind(3, b"demo", b"ann") == 0
    assert ours.find(b"demo") == 3
    assert ours.ids(0) == (b"demo", b"ann")
    assert not ours.unbind(0)
    assert ours.find(b"demo") == 3
    assert ours.unbind(3)
    assert ours.find(b"demo") == -1


def test_binding_a_slot_again_is_never_answered_with_itself() -> None:
    ours = Table(4)
    ours.bind(1, b"demo")
    assert ours.bind(1, b"demo", b"ann") == -1
    assert ours.bind(1, b"other") == -1
    assert ours.find(b"demo") == -1
    assert ours.find(b"other") == 1


def test_bounds() -> None:
    ours = Table(4)
    with pytest.raises(IndexError):
        ours.bind(4, b"demo")
    with pytest.raises(ValueError):
        ours.bind(0, b"x" * 256)
    with pytest.raises(ValueError):
        ours.bind(0, b"demo", b"x" * 256)
    assert ours.find(b"x" * 256) == -1
    for capacity in (0, 1 << 31):
        with pytest.raises(ValueError):
            Table(capacity)


HASHES = """
import sys
assert sys.hash_info.algorithm == "siphash13"
print([hash(bytes(range(n))) for n in range(1, 80)])
"""


@pytest.mark.skipif(sys.hash_info.algorithm != "siphash13", reason="the interpreter was built with another hash")
def test_the_hash_is_that_of_the_interpreter_under_a_zero_seed() -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    answer = subprocess.run([sys.executable, "-c", HASHES], env=environment, capture_output=True, check=True).stdout
    ours = [siphash13(bytes(range(n)), 0, 0) for n in range(1, 80)]
    assert str([h - (1 << 64) if h >> 63 else h for h in ours]) == answer.decode().strip()


def test_ids_that_collide_under_one_seed_spread_under_another() -> None:
    clients = colliding(64, (1, 2), homes=(5,))
    assert len({siphash13(client, 3, 2) >> 32 & 63 for client in clients}) > 25
    assert len({siphash13(client, 1, 3) >> 32 & 63 for client in clients}) > 25


NO_MEMORY = """
import resource
from zpush._fast.table import Table, allocations
ours = Table(1 << 20)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (24 << 20),) * 2)
bound, failed = 0, False
try:
    for slot in range(1 << 20):
        ours.bind(slot, b"%0200d" % slot)
        bound += 1
except MemoryError:
    failed = True
assert failed and bound > 1000, bound
assert len(ours) == bound and ours.ids(bound) is None
assert all(ours.find(b"%0200d" % slot) == slot for slot in range(bound))
del ours
allocated, freed = allocations()
assert allocated == freed
"""


def test_without_memory_nothing_changes() -> None:
    subprocess.run([sys.executable, "-c", NO_MEMORY], check=True)


def test_memory_is_given_back() -> None:
    gc.collect()
    before = table.allocations()
    ours = Table(1000)
    for slot in range(1000):
        ours.bind(slot, b"client-%d" % (slot % 700), b"user")
    for slot in range(0, 1000, 2):
        ours.unbind(slot)
    assert table.allocations()[0] - before[0] > 1000
    del ours
    gc.collect()
    allocated, freed = table.allocations()
    assert allocated - before[0] == freed - before[1]
