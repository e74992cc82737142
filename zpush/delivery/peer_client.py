"""The caller's side of one connection: to one owner, at one priority, made when the first call needs it.

Rules. Calls leave in the order in which they were made, so a client's messages do. At most WINDOW batches
wait for their first answer; further calls wait here, and a connection that does not take bytes takes no
calls. A channel lives for one connection: when that ends, for whatever reason, every call fails with
PeerUnreachable and the channel is gone; the next call makes a new one. It never connects again by itself:
who is worth another try is the router's decision.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from zpush.delivery.peer_calls import Call, Calls
from zpush.delivery.peer_frames import decode_answer
from zpush.delivery.peer_hello import CallerHello
from zpush.delivery.peer_link import PeerLink
from zpush.errors import PeerUnreachable
from zpush.protocol.message import Priority

WINDOW = 64
_SWEEP_S = 1.0


class Timeouts(NamedTuple):
    """hello_s: to connect, and again for the hello. answer_s: a first answer. settle_s: PENDING ones, broadcasts;
    the wait for an ack comes on top of it."""

    hello_s: float
    answer_s: float
    settle_s: float


class CallerLink(PeerLink):
    """Says hello, then hands every answer to its channel."""

    def __init__(self, hello: CallerHello, channel: Channel, hello_timeout_s: float) -> None:
        super().__init__(hello_timeout_s)
        self._hello = hello
        self._channel = channel
        self._take = self._challenged  # what the next frame is

    def on_connected(self) -> None:
        self._channel.connected(self)
        self.send(self._hello.first)

    def on_frame(self, body: bytes) -> int:
        return self._take(body)

    def _challenged(self, body: bytes) -> int:
        self.send(self._hello.challenged(body))
        self._take = self._welcomed
        return 1

    def _welcomed(self, body: bytes) -> int:
        try:
            self._hello.welcomed(body)
        except PeerUnreachable as error:
            self.drop(error)
        else:
            self.opened()
            self._take = self._answered
            self._channel.opened()
        return 1

    def _answered(self, body: bytes) -> int:
        return self._channel.answered(body)

    def on_writable(self) -> None:
        self._channel.send_waiting()

    def on_lost(self, error: Exception) -> None:
        self._channel.lost(error)


class Channel:
    """Calls to one owner (by node id) at one priority. on_gone is called once, before the calls fail."""

    def __init__(
        self,
        key: tuple[str, Priority],
        address: str,
        hello: CallerHello,
        timeouts: Timeouts,
        on_gone: Callable[[Channel, PeerUnreachable], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.key = key
        self._address = address
        self._timeouts = timeouts
        self._on_gone = on_gone
        self._calls = Calls(timeouts.settle_s, timeouts.answer_s)
        self._waiting: deque[tuple[int, Call, bytes]] = deque()
        self._number = 0
        self._link: CallerLink | None = None
        self._open = False  # the hello is over
        self._gone = False
        self._sweep: asyncio.TimerHandle | None = None
        self._connecting = self._loop.create_task(self._connect(hello))

    def call(self, call: Call) -> None:
        """ValueError where the request is too big for a frame."""
        self._number += 1
        self._waiting.append((self._number, call, call.frame(self._number)))
        self.send_waiting()

    @property
    def idle(self) -> bool:
        """No call is under way."""
        return not self._waiting and not len(self._calls)

    def close(self, reason: str) -> None:
        """Gives up the connection and every call on it."""
        self._connecting.cancel()
        self._end(PeerUnreachable(reason))

    # ---- called by the link

    def connected(self, link: CallerLink) -> None:
        self._link = link
        if self._gone:
            link.drop(PeerUnreachable("given up"))

    def opened(self) -> None:
        self._open = True
        self.send_waiting()

    def answered(self, body: bytes) -> int:
        answer = decode_answer(body)
        self._calls.answer(answer, self._loop.time())
        self.send_waiting()
        return 1

    def send_waiting(self) -> None:
        link, calls, waiting = self._link, self._calls, self._waiting
        if link is None or not self._open:
            return
        now_s = self._loop.time()
        while waiting and link.writable and calls.window < WINDOW:
            number, call, frame = waiting.popleft()
            calls.sent(number, call, now_s)
            link.send(frame)
        if len(calls) and self._sweep is None:
            self._sweep = self._loop.call_later(_SWEEP_S, self._check)

    def lost(self, error: Exception) -> None:
        if not isinstance(error, PeerUnreachable):
            when = "" if self._open else " during the hello (does it know the same peers.secret?)"
            error = PeerUnreachable(f"peer {self._address}: {error}{when}")
        self._end(error)

    # ---- inside

    async def _connect(self, hello: CallerHello) -> None:
        timeout_s = self._timeouts.hello_s
        try:
            host, port = _split(self._address)
            async with asyncio.timeout(timeout_s):
                await self._loop.create_connection(lambda: CallerLink(hello, self, timeout_s), host, port)
        except ConnectionRefusedError:
            self._end(PeerUnreachable(f"peer {self._address}: nobody listens there", refused=True))
        except TimeoutError:
            self._end(PeerUnreachable(f"peer {self._address}: no connection within {timeout_s:g} s"))
        except (OSError, ValueError) as error:
            self._end(PeerUnreachable(f"peer {self._address}: {error}"))

    def _check(self) -> None:
        """Once a second while there are calls."""
        self._sweep = None
        if self._calls.overdue(self._loop.time()):
            self._end(PeerUnreachable(f"peer {self._address} did not answer in time"))
        elif len(self._calls):
            self._sweep = self._loop.call_later(_SWEEP_S, self._check)

    def _end(self, error: PeerUnreachable) -> None:
        if self._gone:
            return
        self._gone = True
        link, self._link = self._link, None
        if link is not None:
            link.drop(error)
        if self._sweep is not None:
            self._sweep.cancel()
        self._on_gone(self, error)
        self._calls.fail(error)
        waiting, self._waiting = self._waiting, deque()
        for _, call, _ in waiting:
            call.fail(error)


def _split(address: str) -> tuple[str, int]:
    """host:port, an IPv6 host in brackets. uvloop would take a port modulo 65536."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("that is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)
