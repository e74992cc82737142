"""Decisions about time and load, without a clock and without a die of their own.

Rules. Pure: facts in, a decision out. `now` and the random generator are parameters, so that a test sees a year in a
millisecond and the same herd twice. Jitter is full wherever many would otherwise act together.
"""

from __future__ import annotations

import math
from random import Random

MIN_AGE_S = 1  # the wheel's tick
DRAIN_RATE = 200  # clients a second that one worker asks to go, where the window allows it


def lifetime_s(
    rng: Random, max_age_s: float, jitter_s: float, now_s: float, token_expires_s: float | None, grace_s: float = 0.0
) -> tuple[int, bool]:
    """(seconds until the go-away, False), or where it is the token that ends the connection (those until then, True).

    0: never. max_age_s: 0 for none; up to jitter_s is taken off it. token_expires_s: Unix. grace_s: what the server
    waits between the go-away and its own close. A token that is over by now still gets one tick: long enough to be
    told why.
    """
    age_s = max(MIN_AGE_S, math.ceil(max_age_s - rng.random() * jitter_s)) if max_age_s > 0 else 0
    if token_expires_s is None:
        return age_s, False
    left_s = max(MIN_AGE_S, math.floor(token_expires_s - now_s))
    if age_s and age_s + grace_s <= left_s:
        return age_s, False
    return left_s, True


def backoff_s(rng: Random, attempt: int, base_s: float, cap_s: float) -> float:
    """The wait before attempt number 0, 1, 2 …: anything between 0 and base_s * 2**attempt, at most cap_s."""
    return rng.random() * min(cap_s, base_s * 2.0 ** min(attempt, 60))


def drain_window_s(connections: int, window_s: float) -> int:
    """How long a worker takes to ask its clients to go, whole seconds.

    A herd is spread over the window; a handful goes at DRAIN_RATE, since nobody gains if three clients take 5 minutes.
    """
    return min(math.floor(window_s), math.ceil(connections / DRAIN_RATE))


def admission(connections: int, limit: int, draining: bool) -> str | None:
    """None: welcome; else the handshake's result, "full" or "draining". connections: without the one that asks."""
    if draining:
        return "draining"
    return "full" if connections >= limit else None


def retry_after_s(rng: Random, least_s: int, most_s: int) -> int:
    """Seconds for Retry-After: refused together, they should not come back together."""
    return rng.randint(least_s, most_s)
