"""Slots and the processes that fill them: fork, watch, kill, fork again.

Rules. A slot's process is STARTING until it writes to its ready pipe, then READY; its death is read from
its pidfd. The first death in a row is answered at once, and the slot's listeners stay: what connects
meanwhile waits for the next process. From the second on, and where a process hangs, the listeners leave
their groups until a process is ready again, for a connection that nobody answers is worse than none. A
worker that leaves by itself (its row's `ready` falls) takes no new clients; its API serves on.
A process hangs if its heartbeat is old, or if it does not become ready; a hung one gets KILL.
A slot that retires takes no new clients either, and is gone when its process has ended. A process that drains is
never sent a second TERM, which would make it quick. The same crash again and again is one traceback, then a line each.
"""

from __future__ import annotations

import bisect
import enum
import logging
import os
import signal
import socket
import time
import traceback
import zlib
from collections.abc import Callable, Iterable

from zpush import log
from zpush.errors import ZpushError
from zpush.master import listeners
from zpush.master.backoff import Backoff, Timings
from zpush.master.children import FAILED, REFUSED, Child, describe, fork
from zpush.master.reactor import Reactor, Timer
from zpush.scoreboard import WORKER, Row, Scoreboard
from zpush.server.listeners import Listeners

Entry = Callable[[int, int], int]  # (scoreboard row, ready_fd) → exit code; called in the child

_logger = logging.getLogger("zpush.master")


class State(enum.StrEnum):
    WAITING = "waiting"  # for its next try
    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"  # drains, by a signal that was not ours
    RETIRING = "retiring"  # drains, and nobody comes after it
    HUNG = "hung"  # killed, not yet reaped
    STOPPING = "stopping"
    ENDED = "ended"


class Slot:
    """One place for a worker or processor. sockets: what it serves, None for a processor."""

    def __init__(self, kind: int, number: int, sockets: Listeners | None, entry: Entry, timings: Timings) -> None:
        self.kind = kind
        self.number = number
        self.sockets = sockets
        self.entry = entry
        self.backoff = Backoff(timings)
        self.state = State.WAITING
        self.child: Child | None = None
        self.row = 0
        self.ready_fd = -1
        self.restarts = 0
        self.spawned_at = 0.0
        self.ready_at: float | None = None
        self.timer: Timer | None = None
        self.was_serving = False  # its row has said `ready`
        self.retiring = False
        self.missed_reload = False  # told to reload while it may not yet have been able to hear it
        self.slow = False  # said in the log that it keeps dying
        self.crash = 0  # the digest of the last traceback

    @property
    def name(self) -> str:
        return f"{'worker' if self.kind == WORKER else 'processor'} {self.number}"

    @property
    def place(self) -> tuple[int, int]:
        return self.kind, self.number


class Supervisor:
    """All slots. in_child(slot): called first in every forked child, to close what is the master's."""

    def __init__(
        self, reactor: Reactor, scoreboard: Scoreboard, timings: Timings, backlog: int, in_child: Callable[[Slot], None]
    ) -> None:
        self.slots: list[Slot] = []
        self.on_ready: Callable[[], None] = lambda: None  # a process became ready, or is no longer waited for
        self.on_refused: Callable[[], None] = lambda: None  # a process found its configuration at fault
        self._reactor = reactor
        self._scoreboard = scoreboard
        self._timings = timings
        self._backlog = backlog
        self._in_child = in_child
        self._running = False
        self._stopping = False
        self._checked_at = self._awake_since = time.monotonic()

    def add(self, kind: int, number: int, sockets: Listeners | None, entry: Entry) -> None:
        """Workers stand before processors, each kind by number. Once we run, the process is started at once."""
        slot = Slot(kind, number, sockets, entry, self._timings)
        bisect.insort(self.slots, slot, key=lambda each: each.place)
        if self._running:
            self._spawn(slot)

    def start(self) -> None:
        self._running = True
        for slot in self.slots:
            self._spawn(slot)
        self._checked_at = self._awake_since = time.monotonic()
        self._reactor.call_later(self._timings.check_s, self._check)

    @property
    def all_ready(self) -> bool:
        return all(slot.state is State.READY for slot in self.slots if not slot.retiring)

    @property
    def all_ended(self) -> bool:
        return all(slot.state is State.ENDED for slot in self.slots)

    def stop(self, number: int) -> None:
        """Sends a signal to every process, and starts none again."""
        self._stopping = True
        for slot in self.slots:
            if slot.timer is not None:
                slot.timer.cancel()
            if slot.child is None:
                self._end(slot)
            else:
                drains = self._drains(slot)
                slot.state = State.STOPPING
                if number != signal.SIGTERM or not drains:
                    slot.child.send(number)

    def retire(self, slot: Slot, within_s: float) -> None:
        """TERM, and the slot is gone when its process has ended. within_s: after which it is told more."""
        if slot.timer is not None:
            slot.timer.cancel()
        # Peers need it to the end; senders and load balancers' checks go to its siblings.
        listeners.leave((slot.sockets.client, slot.sockets.api) if slot.sockets is not None else ())
        drains, slot.retiring = self._drains(slot), True
        if slot.child is None:
            self._remove(slot)
            return
        if slot.state is not State.HUNG:
            slot.state = State.RETIRING
        if not drains:
            slot.child.send(signal.SIGTERM)
        slot.timer = self._reactor.call_later(within_s, lambda: self._press(slot))

    def reload(self) -> None:
        """HUP to every process. One that is starting may have read the old settings and not hear it yet."""
        for slot in self.slots:
            slot.missed_reload = slot.state is State.STARTING
        self.send(signal.SIGHUP)

    def send(self, number: int) -> None:
        for slot in self.slots:
            if slot.child is not None:
                slot.child.send(number)

    def close_in_child(self, own: Slot | None) -> None:
        """Closes what the child has inherited of all slots but its own."""
        for slot in self.slots:
            if slot.child is not None:
                slot.child.close()
            if slot.ready_fd >= 0:
                os.close(slot.ready_fd)
            if slot is not own and slot.sockets is not None:
                _close(slot.sockets)

    def close(self) -> None:
        for slot in self.slots:
            if slot.sockets is not None:
                _close(slot.sockets)

    def _spawn(self, slot: Slot) -> None:
        slot.timer = None
        slot.row = self._scoreboard.claim(slot.kind, slot.number)
        slot.state, slot.ready_at, slot.was_serving, slot.missed_reload = State.STARTING, None, False, False
        slot.spawned_at = time.monotonic()
        reading, writing = os.pipe()
        try:
            slot.child = fork(lambda: self._become(slot, reading, writing))
        except OSError as e:  # EAGAIN, ENOMEM: no room for a process now
            os.close(reading)
            self._lost(slot, f"cannot fork: {e.strerror}")
            return
        finally:
            os.close(writing)
        slot.ready_fd = reading
        self._reactor.watch(reading, lambda: self._hear(slot))
        self._reactor.watch(slot.child.pidfd, lambda: self._reap(slot))

    def _become(self, slot: Slot, reading: int, writing: int) -> int:
        """In the child."""
        os.close(reading)
        self._in_child(slot)
        row = self._scoreboard.rows[slot.row]
        row.set("pid", os.getpid())
        row.set("started_ms", time.time_ns() // 1_000_000)
        try:
            return slot.entry(slot.row, writing)
        except ZpushError:
            raise
        except Exception as e:
            row.set("crash", _digest(e))
            lived_s = time.monotonic() - slot.spawned_at
            if row.get("crash") != slot.crash or lived_s >= self._timings.healthy_s:
                raise
            log.event(_logger, "crashed again", logging.ERROR, reason=f"{type(e).__name__}: {e}")
            return FAILED

    def _hear(self, slot: Slot) -> None:
        """The ready pipe: a byte, or its end where the process died or closed it."""
        ready = bool(os.read(slot.ready_fd, 1))
        self._close_pipe(slot)
        if ready and slot.state is State.STARTING:
            self._serve(slot)

    def _serve(self, slot: Slot) -> None:
        assert slot.child is not None
        try:
            listeners.join(slot.sockets or (), self._backlog)
        except OSError as e:  # another program took the port while the slot was out
            log.event(_logger, f"{slot.name} cannot listen", logging.ERROR, reason=e.strerror)
            slot.child.send(signal.SIGKILL)
            return
        slot.state, slot.ready_at = State.READY, time.monotonic()
        slot.was_serving = bool(self._scoreboard.rows[slot.row].get("ready"))
        log.event(_logger, f"{slot.name} ready", child=slot.child.pid)
        if slot.missed_reload:
            slot.child.send(signal.SIGHUP)
        self.on_ready()

    def _reap(self, slot: Slot) -> None:
        assert slot.child is not None
        self._reactor.unwatch(slot.child.pidfd)
        self._close_pipe(slot)
        pid, code = slot.child.pid, slot.child.reap()
        slot.child = None
        if self._stopping:
            log.event(_logger, f"{slot.name} ended", child=pid, how=describe(code))
            self._end(slot)
        elif slot.retiring:
            log.event(_logger, f"{slot.name} has retired", child=pid, how=describe(code))
            self._remove(slot)
        else:
            self._lost(slot, describe(code), pid)
            if code == REFUSED:
                self.on_refused()

    def _lost(self, slot: Slot, how: str, pid: int = 0) -> None:
        """Puts a slot without a process in order, and says when it gets the next one."""
        slot.crash = self._scoreboard.rows[slot.row].get("crash") or slot.crash
        self._scoreboard.retire(slot.row)
        slot.row, slot.state = 0, State.WAITING
        wait_s = slot.backoff.died(time.monotonic() - slot.ready_at if slot.ready_at is not None else 0.0)
        if slot.backoff.deaths > 1:
            listeners.leave(slot.sockets or ())
        known, slot.slow = slot.slow, slot.backoff.slow
        if slot.slow and not known:
            log.event(
                _logger, f"{slot.name} keeps dying", logging.ERROR, how=how, deaths=slot.backoff.deaths, retry_s=wait_s
            )
        else:
            level = logging.DEBUG if known and slot.slow else logging.WARNING
            log.event(_logger, f"{slot.name} died", level, child=pid, how=how, retry_s=wait_s)
        slot.timer = self._reactor.call_later(wait_s, lambda: self._respawn(slot))

    def _respawn(self, slot: Slot) -> None:
        slot.restarts += 1
        self._scoreboard.retired.add("restarts")
        self._spawn(slot)

    def _end(self, slot: Slot) -> None:
        if slot.row:
            self._scoreboard.retire(slot.row)
            slot.row = 0
        listeners.leave(slot.sockets or ())  # nobody will answer what connects from now on
        slot.state = State.ENDED

    def _remove(self, slot: Slot) -> None:
        if slot.timer is not None:
            slot.timer.cancel()
        self._end(slot)
        if slot.sockets is not None:
            _close(slot.sockets)
        self.slots.remove(slot)
        self.on_ready()

    def _press(self, slot: Slot) -> None:
        """A slot that retires has had its time."""
        if slot.child is not None:
            log.event(_logger, f"{slot.name} takes too long to retire", logging.WARNING, child=slot.child.pid)
            slot.child.send(signal.SIGQUIT)
            slot.timer = self._reactor.call_later(self._timings.quick_s, slot.child.kill)

    def _drains(self, slot: Slot) -> bool:
        """Whether its process has been told to go, by us or by somebody else."""
        return slot.retiring or (slot.was_serving and not self._scoreboard.rows[slot.row].get("ready"))

    def _close_pipe(self, slot: Slot) -> None:
        if slot.ready_fd >= 0:
            self._reactor.unwatch(slot.ready_fd)
            os.close(slot.ready_fd)
            slot.ready_fd = -1

    def _check(self) -> None:
        """Looks at every row: who has not been heard of, who is leaving."""
        now = time.monotonic()
        if now - self._checked_at > self._timings.check_s + self._timings.hung_s / 2:
            self._awake_since = now  # we were stopped ourselves, and the workers perhaps with us
        self._checked_at = now
        if not self._stopping:
            for slot in self.slots:
                if slot.child is not None:
                    self._look_at(slot, slot.child, self._scoreboard.rows[slot.row], now)
        self._reactor.call_later(self._timings.check_s, self._check)

    def _look_at(self, slot: Slot, child: Child, row: Row, now: float) -> None:
        if slot.state is not State.HUNG and self._hangs(slot, row, now):
            slot.state = State.HUNG
            listeners.leave(slot.sockets or ())
            log.event(_logger, f"{slot.name} hangs, killed", logging.ERROR, child=child.pid)
            child.send(signal.SIGKILL)
        elif row.get("ready"):
            slot.was_serving = True
        elif slot.state is State.READY and slot.was_serving:
            slot.state = State.LEAVING
            if slot.sockets is not None:
                listeners.leave([slot.sockets.client])
            log.event(_logger, f"{slot.name} leaves", child=child.pid)

    def _hangs(self, slot: Slot, row: Row, now: float) -> bool:
        if slot.state is State.STARTING and now - max(slot.spawned_at, self._awake_since) > self._timings.start_s:
            return True
        beat_ms = row.get("heartbeat_ms")
        return bool(beat_ms) and now - max(beat_ms / 1000, self._awake_since) > self._timings.hung_s


def _digest(error: Exception) -> int:
    """Of where it was raised, not of its text, in which every run may be different."""
    return zlib.crc32("".join(traceback.format_tb(error.__traceback__)).encode())


def _close(sockets: Iterable[socket.socket]) -> None:
    for each in sockets:
        each.close()
