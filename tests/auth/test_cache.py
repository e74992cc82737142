"""What was verified before is remembered: by digest, bounded, and not for longer than it holds."""

from __future__ import annotations

import gc

import pytest

from zpush.auth.base import Identity
from zpush.auth.cache import AnswerCache, TokenCache, digest


def name(n: int) -> bytes:
    return digest(b"%d" % n)


def test_an_identity_holds_until_it_is_over() -> None:
    cache = TokenCache(10, leeway_s=30.0)
    identity = Identity("d1", "", 100.0)
    cache.put(name(1), identity, 50.0)
    assert cache.get(name(1), 129.9) is identity
    assert cache.get(name(2), 50.0) is None
    assert cache.get(name(1), 130.0) is None
    assert len(cache) == 0


def test_it_is_bounded_and_the_oldest_goes_first() -> None:
    cache = TokenCache(3)
    for n in range(5):
        cache.put(name(n), Identity(f"d{n}", "", 100.0), 0.0)
    assert [cache.get(name(n), 0.0) is not None for n in range(5)] == [False, False, True, True, True]
    cache.clear()
    assert len(cache) == 0


def test_what_is_over_makes_room() -> None:
    cache = TokenCache(1000)
    for n in range(100):
        cache.put(name(n), Identity("d", "", 10.0), 0.0)
    for n in range(100, 150):
        cache.put(name(n), Identity("d", "", 100.0), 20.0)
    assert len(cache) == 50


@pytest.mark.parametrize("capacity", [0, 1])
def test_small_ones(capacity: int) -> None:
    cache = TokenCache(capacity)
    for n in range(3):
        cache.put(name(n), Identity("d", "", 10.0), 0.0)
        cache.put(name(n), Identity("d", "", -1.0), 0.0)
    assert len(cache) == 0
    answers = AnswerCache(capacity, 10.0)
    for n in range(3):
        answers.put(name(n), Identity("d"), float(n))
    assert len(answers) == capacity


def test_the_token_is_not_kept() -> None:
    secret = b"a token that nobody else holds, by chance"
    cache = TokenCache(10)
    cache.put(digest(secret), Identity("d", "", 10.0), 0.0)
    held = [o for o in gc.get_referents(*gc.get_referents(cache)) if isinstance(o, bytes)]
    assert all(secret not in o for o in held)
    assert digest(secret) in cache._identities and len(digest(secret)) == 32


def test_answers_age_and_end() -> None:
    answers = AnswerCache(10, keep_s=60.0)
    answers.put(name(1), Identity("d", "", 1000.0), 5.0)
    assert answers.get(name(1), 10.0, 15.0, 0.0) is not None
    assert answers.get(name(1), 10.0, 15.1, 0.0) is None
    assert answers.get(name(1), 60.0, 65.0, 0.0) is not None
    assert answers.get(name(1), 60.0, 15.0, 1000.0) is None
    answers.put(name(2), Identity("e"), 66.0)
    assert len(answers) == 1, "what is too old to be of use goes when something comes"
    answers.forget(name(2))
    assert len(answers) == 0


def test_answers_keep_their_age_when_taken_over() -> None:
    old, new = AnswerCache(10, 60.0), AnswerCache(10, 60.0)
    old.put(name(1), Identity("d"), 5.0)
    new.take(old)
    assert new.get(name(1), 60.0, 65.0, 0.0) == Identity("d")
    assert new.get(name(1), 60.0, 66.0, 0.0) is None
