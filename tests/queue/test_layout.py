"""Names, partitions and shares."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from zpush.protocol.message import Priority
from zpush.queue.layout import Layout, fair_share, member, readers_of


@given(st.integers(1, 64), st.integers(1, 70))
def test_shares_add_up_to_all_partitions_and_differ_by_one_at_most(partitions: int, count: int) -> None:
    readers = [f"r{i:02}" for i in range(count)]
    shares = [fair_share(partitions, readers, r) for r in readers]
    assert sum(share for share, _ in shares) == partitions
    assert max(s for s, _ in shares) - min(s for s, _ in shares) <= 1
    first_choices = [(first + i) % partitions for share, first in shares for i in range(share)]
    assert sorted(first_choices) == list(range(partitions)), "readers that start together claim different ones"


def test_a_dedicated_reader_counts_for_its_priorities_only() -> None:
    members = [member("b", [Priority.HIGH]), member("a", list(Priority)), member("c", [Priority.LOW])]
    assert readers_of(members, Priority.HIGH) == ["a", "b"]
    assert readers_of(members, Priority.NORMAL) == ["a"]
    assert readers_of(members, Priority.LOW) == ["a", "c"]


@given(st.text(max_size=50))
def test_a_key_has_one_partition(key: str) -> None:
    layout = Layout("p", 8)
    assert layout.partition_of(key) == layout.partition_of(key) < 8


def test_keys_spread_over_the_partitions() -> None:
    counts = Counter(Layout("p", 8).partition_of(f"client-{i}") for i in range(8000))
    assert all(800 < n < 1200 for n in counts.values()) and len(counts) == 8


def test_names() -> None:
    layout = Layout("zpush", 8)
    assert layout.stream(Priority.HIGH, 3) == "zpush.high.3"
    assert layout.dead == "zpush.dead"
