"""The master's loop: descriptors, timers and signals, one at a time, in one thread.

Rules. A callback never blocks: what takes time is a descriptor or a timer. Signal handlers only enqueue
(CPython writes the number into the wakeup socket); what a signal means is decided here, between
callbacks. Signals go first in every turn: a Ctrl-C reaches the whole process group, and a worker that
has already obeyed it must not be taken for one that crashed. An exception ends the loop: a master that
does not know what it is doing leaves, and its children, told by PDEATHSIG, drain.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence

MAX_SIGNALS = 256  # read at once; more wait for the next turn

Callback = Callable[[], None]


class Timer:
    """A callback due at a moment of the monotonic clock, unless cancelled."""

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


class Reactor:
    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()  # timers due at the same moment run in the order they were set
        self._signals: tuple[socket.socket, socket.socket] | None = None
        self._deliver: Callback = lambda: None

    def watch(self, fd: int, callback: Callback, *, write: bool = False) -> None:
        """Calls back whenever fd is readable (write: writable). A second watch of the same fd replaces the first."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)
        self._selector.register(fd, selectors.EVENT_WRITE if write else selectors.EVENT_READ, callback)

    def unwatch(self, fd: int) -> None:
        """Before fd is closed: a copy in a child would keep a closed one in the epoll set."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def call_later(self, delay_s: float, callback: Callback) -> Timer:
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), timer))
        return timer

    def handle_signals(self, numbers: Sequence[signal.Signals], callback: Callable[[int], None]) -> None:
        """Calls back with a signal's number, from the loop."""
        reading, writing = self._signals = socket.socketpair()
        for end in self._signals:
            end.setblocking(False)
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, lambda *_: None)  # a handler there must be, for the number to be written

        def deliver() -> None:
            with contextlib.suppress(BlockingIOError):
                for number in reading.recv(MAX_SIGNALS):
                    callback(number)

        self._deliver = deliver
        self.watch(reading.fileno(), lambda: None)  # to wake up; each turn delivers anyway

    def run(self, done: Callable[[], bool]) -> None:
        """Until done() is true, which is asked after every turn."""
        while not done():
            self._turn()

    def _turn(self) -> None:
        ready = self._selector.select(self._wait_s())
        # Not by its readiness: a signal that came while we were not running is written only after epoll_wait has
        # gathered what is ready, a child that obeyed the same signal among it.
        self._deliver()
        for key, _ in ready:
            # An earlier callback of this turn may have closed this one's descriptor, and another taken its number.
            if self._selector.get_map().get(key.fd) is key:
                key.data()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                callback()

    def _wait_s(self) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def close(self) -> None:
        """Also right in a forked child: closes its copies and leaves the master's epoll set as it is."""
        self._selector.close()
        if self._signals is not None:
            signal.set_wakeup_fd(-1)
            for end in self._signals:
                end.close()
            self._signals = None
