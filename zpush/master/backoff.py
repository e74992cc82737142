"""When a process that died is started again, and all the times that a master waits.

Rules. The first death is answered at once: it was an accident. From the second in a row on, waiting
doubles up to a slow retry that goes on for ever, for the cause (a full disk, a server that is away) may
pass. A row of deaths ends when a process has been well for a while.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timings:
    """Seconds. Tests shorten them."""

    check_s: float = 1.0  # heartbeats are looked at this often
    hung_s: float = 10.0  # a heartbeat older than this, which is due every second, means hung
    start_s: float = 60.0  # from fork to ready; imports on a cold, busy machine take seconds
    check_start_s: float = 60.0  # for all that settings name, before anything is started; imports as well
    backoff_s: float = 0.5  # after the second death in a row
    slow_s: float = 30.0  # the longest wait
    healthy_s: float = 60.0  # ready for so long: the next death counts as the first
    check_files_s: float = 30.0  # for the files that new settings name; a child's imports are part of it
    quick_s: float = 5.0  # from a quick shutdown's INT to KILL
    drain_grace_s: float = 15.0  # on top of server.drain_window and connections.go_away_grace
    embedded_stop_s: float = 10.0  # for the embedded server's last fsync


class Backoff:
    """One slot's row of deaths."""

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self.deaths = 0

    def died(self, healthy_s: float) -> float:
        """Seconds to wait; healthy_s: how long the dead process had been ready."""
        if healthy_s >= self._timings.healthy_s:
            self.deaths = 0
        self.deaths += 1
        if self.deaths == 1:
            return 0.0
        doublings = min(self.deaths - 2, 32)
        return min(self._timings.backoff_s * 2.0**doublings, self._timings.slow_s)

    @property
    def slow(self) -> bool:
        """Whether waiting has reached its longest."""
        return self.deaths > 1 and self._timings.backoff_s * 2.0 ** min(self.deaths - 2, 32) >= self._timings.slow_s
