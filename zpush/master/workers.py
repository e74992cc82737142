"""How many workers there are: at the start, by TTIN and TTOU, and by server.workers after a reload.

Rules. A worker more is a slot more: the lowest free number, sockets of its own beside those that are there, and
peers.port + number; its listeners join their groups when it is ready, for a connection that waits for an
interpreter to start had better go to a sibling. A worker fewer is the one with the highest number: it takes
no new clients, asks those it has to go within the drain window, and is gone with its sockets when it has ended.
Until then it counts against MAX_WORKERS, so that no row of signals starts processes without end.
What cannot be done changes nothing and is one line.
"""

from __future__ import annotations

import functools
import logging
import signal
from collections.abc import Callable

from zpush import log
from zpush.config import Settings
from zpush.errors import StartupError
from zpush.master import listeners
from zpush.master.backoff import Timings
from zpush.master.supervisor import Slot, Supervisor
from zpush.scoreboard import WORKER
from zpush.server.listeners import Listeners

MAX_WORKERS = 128  # as server.workers

Work = Callable[[int, Listeners, int, int], int]  # (slot, its sockets, scoreboard row, ready_fd) → exit code

_logger = logging.getLogger("zpush.master")


class Workers:
    """The supervisor's slots of this kind. work: what a worker does, called in the child."""

    def __init__(self, supervisor: Supervisor, timings: Timings, work: Work) -> None:
        self._supervisor = supervisor
        self._timings = timings
        self._work = work

    @property
    def slots(self) -> list[Slot]:
        """By number; those that retire are among them."""
        return [slot for slot in self._supervisor.slots if slot.kind == WORKER]

    @property
    def sockets(self) -> list[Listeners]:
        return [slot.sockets for slot in self.slots if slot.sockets is not None]

    @property
    def count(self) -> int:
        """Those that stay."""
        return sum(not slot.retiring for slot in self.slots)

    def open(self, settings: Settings, patience_s: float) -> None:
        """The first ones' sockets. Raises StartupError."""
        for number, sockets in enumerate(listeners.open_listeners(settings, settings.worker_count, patience_s)):
            self._add(number, sockets)

    def obey(self, number: int, settings: Settings) -> None:
        """TTIN: one more; TTOU: one fewer."""
        wanted = self.count + (1 if number == signal.SIGTTIN else -1)
        self.resize(wanted, settings, signal.Signals(number).name.removeprefix("SIG"))

    def resize(self, wanted: int, settings: Settings, why: str) -> str:
        """Returns what stood in the way, "" where nothing did."""
        problem = self._out_of_bounds(wanted)
        while not problem and self.count < wanted:
            problem = self._grow(settings, why)
        while not problem and self.count > wanted:
            self._shrink(settings, why)
        if problem:
            log.event(
                _logger, "cannot change the workers", logging.WARNING, why=why, workers=self.count, reason=problem
            )
        return problem

    def use(self, settings: Settings) -> None:
        """What a reload changes of listeners that are open."""
        listeners.set_options([sockets.client for sockets in self.sockets], settings)

    def _out_of_bounds(self, wanted: int) -> str:
        if not self.slots:
            return "this run has none: `zpush process` starts processors only"
        if wanted < 1:
            return "one must stay; TERM ends zpush"
        return f"there may be at most {MAX_WORKERS}" if wanted > MAX_WORKERS else ""

    def _grow(self, settings: Settings, why: str) -> str:
        slots = self.slots
        taken = {slot.number for slot in slots}
        number = next((n for n in range(MAX_WORKERS) if n not in taken), None)
        if number is None:
            return f"there may be at most {MAX_WORKERS}, and some are still about to retire"
        try:
            sockets = listeners.open_another(settings, number, self.sockets[0])
        except StartupError as e:
            return str(e)
        log.event(_logger, f"worker {number} is added", workers=self.count + 1, why=why)
        self._add(number, sockets)
        return ""

    def _shrink(self, settings: Settings, why: str) -> None:
        slot = max((slot for slot in self.slots if not slot.retiring), key=lambda slot: slot.number)
        window_s = settings.server.drain_window_s
        log.event(_logger, f"{slot.name} retires", workers=self.count - 1, why=why, within_s=window_s)
        grace_s = settings.connections.go_away_grace_s + self._timings.drain_grace_s
        self._supervisor.retire(slot, window_s + grace_s)

    def _add(self, number: int, sockets: Listeners) -> None:
        self._supervisor.add(WORKER, number, sockets, functools.partial(self._work, number, sockets))
