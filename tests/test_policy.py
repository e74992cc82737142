"""Lifetimes, backoff, pacing and admission over thousands of draws."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpush import policy

NOW = 1_800_000_000.0


def ages(max_age_s: float, jitter_s: float, count: int = 5000) -> list[int]:
    rng = Random(1)
    return [policy.lifetime_s(rng, max_age_s, jitter_s, NOW, None)[0] for _ in range(count)]


def test_lifetimes_are_spread_evenly_over_the_jitter() -> None:
    drawn = ages(1800, 180)
    assert 1620 <= min(drawn) <= 1622 and 1798 <= max(drawn) <= 1800
    busiest = max(drawn.count(second) for second in set(drawn))
    assert busiest < 5000 / 180 * 2.5  # no second gets a herd


def test_the_same_seed_gives_the_same_lifetimes() -> None:
    assert ages(1800, 180, 50) == ages(1800, 180, 50)


def test_without_jitter_or_without_max_age() -> None:
    assert set(ages(1800, 0, 10)) == {1800}
    assert set(ages(0, 180, 10)) == {0}
    assert set(ages(0.2, 0, 10)) == {1}


@pytest.mark.parametrize(
    ("max_age_s", "left_s", "grace_s", "expected"),
    [
        (1800, 60, 4, (60, True)),
        (1800, 60.9, 4, (60, True)),
        (1800, 5000, 4, (1800, False)),
        (1800, 1804, 4, (1800, False)),
        (1800, 1803, 4, (1803, True)),
        (0, 60, 4, (60, True)),
        (1800, 2, 4, (2, True)),
        (1800, -20, 4, (1, True)),  # accepted thanks to leeway
        (1800, 60, 0, (60, True)),
    ],
)
def test_a_connection_ends_with_its_token(
    max_age_s: float, left_s: float, grace_s: float, expected: tuple[int, bool]
) -> None:
    assert policy.lifetime_s(Random(1), max_age_s, 0, NOW, NOW + left_s, grace_s) == expected


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.one_of(st.none(), st.floats(-1e6, 1e9)), st.integers())
def test_lifetimes_are_bounded(max_age_s: float, jitter_s: float, left_s: float | None, seed: int) -> None:
    expires_s = None if left_s is None else NOW + left_s
    age_s, expires = policy.lifetime_s(Random(seed), max_age_s, jitter_s, NOW, expires_s)
    assert age_s >= 0
    assert (age_s == 0) == (max_age_s == 0 and left_s is None)
    if max_age_s:
        assert age_s <= max(1, max_age_s + 1)
    if left_s is not None:
        assert age_s <= max(1, NOW + left_s - NOW)  # as it is rounded
    assert not expires or left_s is not None


def test_backoff_has_full_jitter_and_a_cap() -> None:
    rng = Random(1)
    for attempt, most in [(0, 1), (1, 2), (4, 16), (5, 30), (10_000, 30)]:
        drawn = [policy.backoff_s(rng, attempt, 1.0, 30.0) for _ in range(2000)]
        assert 0 <= min(drawn) < 0.05 * most
        assert 0.95 * most < max(drawn) <= most


@pytest.mark.parametrize(
    ("connections", "window_s", "expected"),
    [(0, 300, 0), (1, 300, 1), (200, 300, 1), (201, 300, 2), (15_000, 300, 75), (100_000, 300, 300), (5, 0, 0)],
)
def test_a_handful_drains_at_once_and_a_herd_over_the_window(connections: int, window_s: float, expected: int) -> None:
    assert policy.drain_window_s(connections, window_s) == expected


@pytest.mark.parametrize(
    ("connections", "draining", "result"),
    [
        (0, False, None),
        (9, False, None),
        (10, False, "full"),
        (11, False, "full"),
        (0, True, "draining"),
        (10, True, "draining"),
    ],
)
def test_admission(connections: int, draining: bool, result: str | None) -> None:
    assert policy.admission(connections, 10, draining) == result


def test_retry_after_is_spread() -> None:
    rng = Random(1)
    assert {policy.retry_after_s(rng, 5, 15) for _ in range(1000)} == set(range(5, 16))
