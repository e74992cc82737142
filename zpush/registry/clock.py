"""The server's clock, as far as its replies tell.

Rules. It says until when a command counts as just sent: a server that stood still carries out, minutes later, what it
still finds in its sockets, also of workers that have long given up on it. Measured at each connect and with each
renewal of the node key, against the monotonic clock, so that a step of this machine's time changes nothing. The error
is the time that a reply takes, and makes a command look older than it is. Several servers of one store
are taken to agree within that.
"""

from __future__ import annotations

import time

from zpush.store import Future, Store

MAX_REPLY_S = 0.1  # a slower reply tells nothing


class ServerClock:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._ahead_ms: int | None = None  # of the monotonic clock
        store.on_connect(lambda changed: self.ask())

    def ask(self) -> None:
        """The answer counts from when it comes."""
        asked_s = time.monotonic()
        self._store.call("", "TIME").add_done_callback(lambda reply: self._answered(reply, asked_s))

    def _answered(self, reply: Future, asked_s: float) -> None:
        now_s = time.monotonic()
        if reply.cancelled() or reply.exception() is not None or now_s - asked_s > MAX_REPLY_S:
            return
        seconds, microseconds = map(int, reply.result())
        self._ahead_ms = seconds * 1000 + microseconds // 1000 - int(now_s * 1000)

    def in_ms(self, milliseconds: int) -> int:
        """The server's time so much from now, Unix ms; 0 where it is not known."""
        return 0 if self._ahead_ms is None else int(time.monotonic() * 1000) + self._ahead_ms + milliseconds
