"""One connection to one server: commands out, replies back in the same order.

Rules. Commands of one loop turn leave in one write. Whoever waits for a reply stands in one deque: a plain
future, or a `Taker` where several replies make one answer or a reply may have to be asked for again.
Nothing waits for ever: a lost connection answers everyone at once, and a server that stays silent
for `reply_timeout_s` while somebody waits is a lost connection. What waits is bounded in number and,
through the transport's high-water mark, in bytes. Past either bound new commands are refused.

The cost counts here: a command is one `pack_command`, two appends and one `set_result`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, Protocol, cast

from hiredis import ProtocolError, Reader, pack_command

from zpush.errors import Unavailable
from zpush.store.replies import LEAVE_CODES, ReplyError, read_error

MAX_WAITING = 100_000  # commands without a reply; a future and its place in the deque are some 150 bytes
UNSENT_HIGH_BYTES = 64 << 20  # a server that reads slower than is written: refuse past this, until below the low mark
UNSENT_LOW_BYTES = 16 << 20
CLOSE_TIMEOUT_S = 1.0
WATCHES = 4  # looks per reply_timeout_s: silence is noticed within 1.25 of it

Future = asyncio.Future[Any]
pack: Callable[[tuple[Any, ...]], bytes] = pack_command  # str, bytes, int and float


class Taker(Protocol):
    """Stands in the deque where a future does not do."""

    def take(self, reply: Any) -> None:
        """A reply, an error reply, or Unavailable where there will be none. Once per command."""


class Batch:
    """Many commands, one future: their replies in order, error replies and Unavailable among them as values.

    The future itself never fails, so that nobody has to fetch an exception that no longer matters.
    """

    __slots__ = ("_replies", "_size", "future")

    def __init__(self, size: int, future: Future) -> None:
        self.future = future
        self._replies: list[Any] = []
        self._size = size

    def take(self, reply: Any) -> None:
        self._replies.append(reply)
        if len(self._replies) == self._size and not self.future.done():
            self.future.set_result(self._replies)


class Pipeline(asyncio.Protocol):
    """Usable from connection_made until `closed` is set; before and after, every command is refused."""

    def __init__(self, where: str, reply_timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._where = where
        self._reply_timeout_s = reply_timeout_s
        self._transport: asyncio.Transport | None = None
        self._reader = Reader(replyError=read_error)
        self._waiting: deque[Future | Taker] = deque()
        self._out: list[bytes] = []
        self.refusal = "not connected yet"  # why commands are not taken; "" where they are
        self._stuck_s = 0.0
        self._oldest: Future | Taker | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()
        self.closed = asyncio.Event()  # the connection is gone or going; `refusal` says why

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self.closed.is_set()

    # Commands out

    def call(self, command: tuple[Any, ...]) -> Future:
        """The reply; a failed future where it is an error or will not come."""
        future = self._loop.create_future()
        self.send(pack(command), future)
        return future

    def call_many(self, commands: Sequence[tuple[Any, ...]]) -> Future:
        """One future for all replies, see Batch."""
        return self.send_many([pack(c) for c in commands])

    def send(self, packed: bytes, waiter: Future | Taker) -> None:
        if self.refusal or len(self._waiting) >= MAX_WAITING:
            settle(waiter, self._refused())
            return
        self._waiting.append(waiter)
        self._out.append(packed)
        if len(self._out) == 1:
            self._loop.call_soon(self._flush)

    def send_many(self, packed: Sequence[bytes]) -> Future:
        """All of these or none."""
        future = self._loop.create_future()
        if not packed:
            future.set_result([])
        elif self.refusal or len(self._waiting) + len(packed) > MAX_WAITING:
            future.set_result([self._refused()] * len(packed))
        else:
            self._waiting.extend(repeat(Batch(len(packed), future), len(packed)))
            if not self._out:
                self._loop.call_soon(self._flush)
            self._out += packed
        return future

    def _refused(self) -> Unavailable:
        return Unavailable(f"{self._where}: {self.refusal or f'{MAX_WAITING} commands wait for their replies'}")

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and not self.closed.is_set():
            self._transport.write(b"".join(out))

    # Replies back

    def data_received(self, data: bytes) -> None:
        reader, waiting, future = self._reader, self._waiting, asyncio.Future
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False and waiting:
                waiter = waiting.popleft()
                if isinstance(reply, ReplyError):
                    self._refuse(waiter, reply)
                elif not isinstance(waiter, future):
                    waiter.take(reply)
                elif not waiter.done():
                    waiter.set_result(reply)
        except ProtocolError:
            self.abort("answered with something that is not a reply")
        else:
            if reply is not False:  # from here on nothing would tell whose reply is whose
                self.abort("answered more than it was asked")

    def _refuse(self, waiter: Future | Taker, error: ReplyError) -> None:
        settle(waiter, error)
        if error.code in LEAVE_CODES:
            self.abort(str(error))

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._transport.set_write_buffer_limits(UNSENT_HIGH_BYTES, UNSENT_LOW_BYTES)
        self.refusal = ""
        self._watch = self._loop.call_later(self._reply_timeout_s / WATCHES, self._look)

    def pause_writing(self) -> None:
        self.refusal = f"reads slower than is written, {UNSENT_HIGH_BYTES >> 20} MiB wait"

    def resume_writing(self) -> None:
        self.refusal = ""

    def _look(self) -> None:
        """The watch: is the oldest waiter still the one that it was? Where nobody waits, a PING does."""
        period_s = self._reply_timeout_s / WATCHES
        oldest = self._waiting[0] if self._waiting else None
        self._stuck_s = self._stuck_s + period_s if oldest is not None and oldest is self._oldest else 0.0
        self._oldest = oldest
        if self._stuck_s >= self._reply_timeout_s:
            self.abort(f"no reply within {self._reply_timeout_s:g} s")
            return
        if oldest is None:
            self.send(pack(("PING",)), _Pong(self))
        self._watch = self._loop.call_later(period_s, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        self._end(f"connection lost: {exc}" if exc else "the server closed the connection")

    def abort(self, reason: str) -> None:
        """Ends it now; what is unsent is dropped, who waits is told."""
        self._end(reason)
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Ends it after what was called before is on its way; who still waits for a reply is told that none comes."""
        if self._transport is None or self.closed.is_set():
            return
        self._flush()
        self._end("closed")
        self._transport.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._gone.wait()
        except TimeoutError:  # a server that does not read
            self._transport.abort()

    def _end(self, reason: str) -> None:
        if self.closed.is_set():
            return
        self.refusal = reason
        self.closed.set()
        if self._watch is not None:
            self._watch.cancel()
        while self._waiting:
            settle(self._waiting.popleft(), Unavailable(f"{self._where}: {reason}"))


class _Pong:
    """Takes the watch's PING: an error reply means that this connection is of no use any more."""

    __slots__ = ("_pipeline",)

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def take(self, reply: Any) -> None:
        if isinstance(reply, ReplyError):
            self._pipeline.abort(str(reply))


def settle(waiter: Future | Taker, reply: Any) -> None:
    """Gives a reply (or what stands for it) to whoever waits for it."""
    if not isinstance(waiter, asyncio.Future):
        waiter.take(reply)
    elif waiter.done():  # cancelled: its caller does not wait any more
        return
    elif isinstance(reply, Exception):
        waiter.set_exception(reply)
    else:
        waiter.set_result(reply)
