"""When to come back: the rows of the close-code table in seconds. Pure, like the policy it uses.

Rules. Nobody comes back at once twice: "at once" is for a connection that lived, and whoever fails again and again
waits longer each time. That goes for servers that ask to be left as soon as they are met, too. Waits are random from
zero up (full jitter), so that a herd that was cut together does not come back together. A server's Retry-After is a
lower bound.
"""

from __future__ import annotations

from random import Random

from zpush.policy import backoff_s
from zpush.protocol.close import Next

BASE_S, CAP_S = 0.5, 30.0
LONG_BASE_S, LONG_CAP_S = 10.0, 300.0
STABLE_S = 10.0  # a connection that lived this long was a good one
HASTY_S = 1.0  # one that was asked to go within this time was none
GO_AWAY_SPREAD_S = 2.0  # half the default grace: where a go-away names no delay


class Pace:
    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._failures = 0  # in a row

    def ended(self, lived_s: float, then: Next) -> float:
        """Seconds until the next attempt, after a connection of this age. then: not NEVER."""
        self._lived(lived_s)
        return self.failed(then)

    def _lived(self, lived_s: float) -> None:
        if lived_s >= STABLE_S:
            self._failures = 0

    def failed(self, then: Next, retry_after_s: float | None = None) -> float:
        """Likewise after an attempt that led to no connection."""
        attempt, self._failures = self._failures, self._failures + 1
        if retry_after_s is not None:
            return retry_after_s + backoff_s(self._rng, attempt, BASE_S, CAP_S)
        if then is Next.LONG_BACKOFF:
            return backoff_s(self._rng, attempt, LONG_BASE_S, LONG_CAP_S)
        if then is Next.BACKOFF or attempt:
            return backoff_s(self._rng, attempt, BASE_S, CAP_S)
        return 0.0

    def going(self, lived_s: float, delay_s: float | None) -> float:
        """Seconds until the successor of a connection that was asked to go at this age."""
        self._lived(lived_s)
        wait_s = self._rng.random() * GO_AWAY_SPREAD_S if delay_s is None else min(delay_s, CAP_S)
        return max(wait_s, self.failed(Next.AFTER_DELAY)) if lived_s < HASTY_S else wait_s
