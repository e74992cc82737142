"""One TCP connection between peers, either side: frames in, frames out, and its bounded end.

Rules. What is sent within one turn of the loop leaves in one write. What comes in is worked off a bounded
number of messages a turn, so that a full receive buffer does not hold up handshakes and pings; meanwhile
the socket is not read. A peer that does not read is not read either. Every error ends in drop(), every
connection in exactly one on_lost(). The hello has a deadline; until it is over frames are small.
"""

from __future__ import annotations

import asyncio
import socket
from typing import cast

from zpush.delivery.peer_frames import MAX_FRAME_BYTES, FrameReader, PeerProtocolError
from zpush.delivery.peer_hello import HELLO_FRAME_BYTES, HELLO_TIMEOUT_S

TURN_MESSAGES = 512  # about 4 ms of sends to clients, the same bound as a broadcast's share of a turn
_HIGH_WATER_BYTES = 4 * 1024 * 1024  # of unsent frames; a whole batch fits below
_LOW_WATER_BYTES = 1024 * 1024

# A box that vanished without a FIN is noticed on an idle connection within 15 + 3 × 5 s.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


class PeerLink(asyncio.Protocol):
    """Subclasses say what a frame means (on_frame, its cost in messages) and what the end means (on_lost)."""

    def __init__(self, hello_timeout_s: float = HELLO_TIMEOUT_S) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader(HELLO_FRAME_BYTES)
        self._out: list[bytes] = []
        self._pump_due = False
        self._hello_timer = self._loop.call_later(hello_timeout_s, self._hello_overdue, hello_timeout_s)
        self.failure: Exception | None = None  # why this side ended it
        self.writable = True

    # ---- for subclasses

    def on_connected(self) -> None:
        """The TCP connection is there."""

    def on_frame(self, body: bytes) -> int:
        """Takes a frame; how many messages it was worth. May raise PeerProtocolError."""
        raise NotImplementedError

    def on_writable(self) -> None:
        """The other side reads again."""

    def on_lost(self, error: Exception) -> None:
        raise NotImplementedError

    def opened(self) -> None:
        """The hello is over: large frames from now on."""
        self._hello_timer.cancel()
        self._reader.limit_bytes = MAX_FRAME_BYTES

    def send(self, frame: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame)

    def drop(self, error: Exception) -> None:
        """Ends the connection at once, unsent frames and all."""
        if self.failure is None:
            self.failure = error
            self._transport.abort()

    def finish(self, error: Exception) -> None:
        """Ends the connection once what was sent so far is out, or the hello's deadline is over."""
        if self.failure is None:
            self._flush()
            self.failure = error
            self._transport.close()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(_HIGH_WATER_BYTES, _LOW_WATER_BYTES)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        self.on_connected()

    def data_received(self, data: bytes) -> None:
        if self.failure is None:
            self._reader.feed(data)
            if not self._pump_due:
                self._pump()

    def pause_writing(self) -> None:
        self.writable = False
        self._pause_reading()

    def resume_writing(self) -> None:
        self.writable = True
        if not self._pump_due:
            self._resume_reading()
        self.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self._hello_timer.cancel()
        self._out.clear()
        self.on_lost(self.failure or exc or ConnectionResetError("closed by the other side"))
        self.failure = self.failure or ConnectionResetError("closed")

    # ---- inside

    def _hello_overdue(self, after_s: float) -> None:
        self.failure = None  # a finish() that never came to an end is cut off, too
        self.drop(PeerProtocolError(f"no hello within {after_s:g} s"))

    def _pump(self) -> None:
        """Works off whole frames, at most TURN_MESSAGES worth of them a turn."""
        self._pump_due = False
        work = 0
        try:
            while self.failure is None:
                if work >= TURN_MESSAGES:
                    self._pump_due = True
                    self._pause_reading()
                    self._loop.call_soon(self._pump)
                    return
                body = self._reader.next()
                if body is None:
                    self._resume_reading()
                    return
                work += self.on_frame(body)
        except PeerProtocolError as error:
            self.drop(error)

    def _pause_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self.writable and not self._transport.is_closing() and not self._transport.is_reading():
            self._transport.resume_reading()

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and not self._transport.is_closing():
            self._transport.writelines(out)
