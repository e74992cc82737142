"""The table of client addresses against a dict, and what becomes of it when a million addresses come."""

from __future__ import annotations

import gc
import ipaddress
import random
from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zpush._fast import addresses
from zpush._fast.addresses import TAKEN, TOO_MANY_BEGUN, TOO_MANY_OPEN, Addresses


@dataclass
class Entry:
    tokens: Fraction
    since_s: int
    open: int = 0


class Model:
    """The contract with a dict. Nothing is ever forgotten, which nobody can tell from what is over."""

    def __init__(self, open_: int, begun: int, window_s: int) -> None:
        self.open, self.begun, self.window_s = open_, begun, window_s
        self.entries: dict[str, Entry] = {}

    @staticmethod
    def key(text: str) -> str:
        address = ipaddress.ip_address(text)
        address = getattr(address, "ipv4_mapped", None) or address
        return str(address if address.version == 4 else ipaddress.ip_network((address, 64), strict=False))

    def take(self, text: str, now_s: int) -> int:
        entry = self.entries.setdefault(self.key(text), Entry(Fraction(self.begun), now_s))
        if self.open and entry.open >= self.open:
            return TOO_MANY_OPEN
        if self.begun:
            entry.tokens, entry.since_s = self.tokens(entry, now_s), now_s
            if entry.tokens < 1:
                return TOO_MANY_BEGUN
            entry.tokens -= 1
        entry.open += 1
        return TAKEN

    def tokens(self, entry: Entry, now_s: int) -> Fraction:
        return min(Fraction(self.begun), entry.tokens + Fraction(self.begun * (now_s - entry.since_s), self.window_s))

    def release(self, text: str, now_s: int) -> None:
        self.entries[self.key(text)].open -= 1

    def known(self, now_s: int) -> int:
        """At least these have to be in the table."""
        return sum(e.open > 0 or self.tokens(e, now_s) < self.begun for e in self.entries.values())


POOL = ["1.2.3.4", "1.2.3.5", "::ffff:1.2.3.4", "::", "::1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::", "0.0.0.0"]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.sampled_from(POOL)),
        st.tuples(st.just("release"), st.integers(0, 1000)),
        st.tuples(st.just("pass"), st.integers(0, 4)),
        st.tuples(st.just("sweep"), st.just(0)),
    ),
    max_size=120,
)


@settings(max_examples=400, deadline=None)
@given(STEPS, st.integers(0, 3), st.integers(0, 4), st.integers(1, 5), st.sampled_from([0, 5, 2**31]))
def test_any_sequence_is_that_of_a_dict(
    steps: list[tuple[str, str | int]], open_: int, begun: int, window_s: int, start_s: int
) -> None:
    ours, model = Addresses(open_, begun, window_s), Model(open_, begun, window_s)
    taken: list[str] = []
    now_s = start_s
    for what, value in steps:
        if what == "take":
            result = ours.take(str(value), now_s)
            assert result == model.take(str(value), now_s)
            if result == TAKEN:
                taken.append(str(value))
        elif what == "release" and taken:
            address = taken.pop(int(value) % len(taken))
            ours.release(address, now_s)
            model.release(address, now_s)
        elif what == "pass":
            now_s += int(value)
        elif what == "sweep":
            ours.sweep(now_s)
            assert len(ours) == model.known(now_s)
        assert model.known(now_s) <= len(ours) <= len(model.entries)


def many(count: int) -> list[str]:
    rng = random.Random(7)
    return list(dict.fromkeys(str(ipaddress.ip_address(rng.getrandbits(32))) for _ in range(count)))


def test_thousands_come_and_go() -> None:
    ours, found = Addresses(open=2), many(5000)
    for address in found:
        assert ours.take(address, 0) == ours.take(address, 0) == TAKEN
        assert ours.take(address, 0) == TOO_MANY_OPEN
    assert len(ours) == len(found)
    random.Random(3).shuffle(found)
    for i, address in enumerate(found):
        ours.release(address, 0)
        assert ours.take(address, 0) == TAKEN
        ours.release(address, 0)
        ours.release(address, 0)
        assert len(ours) == len(found) - i - 1  # without a limit of those begun, an address is known while it is open
    assert ours.take(found[0], 0) == TAKEN


def test_what_is_over_is_forgotten_by_sweeps() -> None:
    ours, found = Addresses(begun=1, window_s=10), many(3000)
    for address in found:
        ours.take(address, 100)
        ours.release(address, 100)
    ours.sweep(109)
    assert len(ours) == len(found)
    ours.sweep(110)
    assert len(ours) == 0


def test_a_sweep_is_bounded_and_the_next_goes_on() -> None:
    ours, found = Addresses(begun=1, window_s=10), many(30_000)
    for address in found:
        ours.take(address, 0)
        ours.release(address, 0)
    left = [len(found)]
    while left[-1]:
        ours.sweep(10)
        left.append(len(ours))
        assert left[-1] < left[-2]
    assert len(left) == 1 + 65536 // 16384


def test_memory_is_bounded_and_what_is_open_is_never_forgotten() -> None:
    ours = Addresses(open=1, begun=5, window_s=1000, most=1000)
    found = many(50_000)
    kept, passing = found[:300], found[300:]
    for address in kept:
        assert ours.take(address, 0) == TAKEN
    for i, address in enumerate(passing):
        assert ours.take(address, i // 1000) == TAKEN
        ours.release(address, i // 1000)
        assert len(ours) <= 1000
    assert ours.bytes <= 2048 * 32
    for address in kept:
        assert ours.take(address, 60) == TOO_MANY_OPEN
        ours.release(address, 60)


def test_the_fullest_bucket_goes_first() -> None:
    """Of those that are looked at: the newest half survives an attack of a tenth of the table."""
    ours, found = Addresses(begun=1, window_s=1000, most=1000), many(1100)
    for i, address in enumerate(found):
        ours.take(address, i)
        ours.release(address, i)
    assert len(ours) == 1000
    survived = [ours.take(address, 1100) == TOO_MANY_BEGUN for address in reversed(found)]
    assert all(survived[:500])


def test_tokens_come_back_one_after_the_other() -> None:
    """A window that began anew would let four pass within a second."""
    ours = Addresses(begun=2, window_s=10)
    assert [ours.take("1.2.3.4", s) for s in (5, 5, 9, 10, 14, 15)] == [
        TAKEN,
        TAKEN,
        TOO_MANY_BEGUN,
        TAKEN,
        TOO_MANY_BEGUN,
        TAKEN,
    ]
    assert ours.take("1.2.3.5", 15) == TAKEN


def test_another_rate_fills_the_buckets() -> None:
    """What is left in one says nothing under another rate: at 1,000 a window less, everybody would be refused."""
    ours = Addresses(begun=1000, window_s=10)
    assert ours.take("1.2.3.4", 500) == TAKEN
    ours.set_limits(open=0, begun=2, window_s=10)
    assert [ours.take("1.2.3.4", 500) for _ in range(3)] == [TAKEN, TAKEN, TOO_MANY_BEGUN]
    ours.set_limits(open=0, begun=2, window_s=10)
    assert ours.take("1.2.3.4", 500) == TOO_MANY_BEGUN


def test_limits_may_change_at_any_time() -> None:
    ours = Addresses(open=1)
    assert ours.take("1.2.3.4", 0) == TAKEN
    ours.set_limits(open=2, begun=1, window_s=10)
    assert ours.take("1.2.3.4", 5) == TAKEN
    assert ours.take("1.2.3.4", 5) == TOO_MANY_OPEN
    ours.set_limits(open=0, begun=0, window_s=10)
    assert ours.take("1.2.3.4", 5) == TAKEN
    for _ in range(3):
        ours.release("1.2.3.4", 5)
    assert len(ours) == 0
    ours.release("1.2.3.4", 5)  # nothing was taken: nothing happens
    assert len(ours) == 0


def test_addresses_are_spread_by_the_seed() -> None:
    """The hash is keyed: the same addresses stand elsewhere under another seed, so others are looked at."""
    found = many(1200)

    def survivors(seed: int) -> frozenset[str]:
        ours = Addresses(begun=1, window_s=1000, most=1000, seed=seed)
        for address in found:
            ours.take(address, 0)
            ours.release(address, 0)
        return frozenset(a for a in found if ours.take(a, 0) == TOO_MANY_BEGUN)

    assert survivors(1) == survivors(1) != survivors(2)


def test_no_address() -> None:
    with pytest.raises(ValueError, match="not an address"):
        Addresses().take("localhost", 0)


def test_all_memory_is_given_back() -> None:
    gc.collect()
    before = addresses.allocations()
    ours = Addresses(open=1)
    assert ours.bytes == 0
    assert addresses.allocations() == before
    for address in many(500):
        ours.take(address, 0)
    assert ours.bytes == 1024 * 32
    del ours
    after = addresses.allocations()
    assert after[0] - before[0] == after[1] - before[1] == 5
