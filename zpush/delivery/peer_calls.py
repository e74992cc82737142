"""Calls to one owner whose answers are not complete yet, sans-IO: numbers, matching, deadlines, the end.

Rules. An answer must name a call that waits for exactly this kind of answer and fit it (one outcome an
entry, only entries that were PENDING settled later): anything else is a PeerProtocolError. A deadline
that passes ends the connection and with it every call on it: a hung owner answers none of them, and a
later call must not be taken on a connection where an earlier one was given up. So a call has as long as its owner
may take: the wait for a client's ack begins only when the message has left the write buffer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from operator import attrgetter

from zpush.delivery.base import Delivery, Entry
from zpush.delivery.peer_frames import (
    FINAL,
    Answer,
    Broadcast,
    Close,
    Closed,
    Counts,
    Deliver,
    Outcomes,
    PeerProtocolError,
    SettledLater,
    check_outcomes,
    encode,
)
from zpush.errors import PeerUnreachable
from zpush.protocol.message import Message, Outcome

ANSWER_TIMEOUT_S = 5.0  # a first answer takes one turn of the owner's loop; a worker that hangs longer is killed
_ack_wait_ms = attrgetter("ack_wait_ms")


class Call:
    """One request. quick: its answer comes within a turn of the owner's loop, so it counts in the window.

    ack_wait_s: what it may take beyond the time that a message may wait in a write buffer.
    """

    quick = True
    ack_wait_s = 0.0

    def frame(self, number: int) -> bytes:
        raise NotImplementedError

    def take(self, answer: Answer) -> bool:
        """True where nothing more will come."""
        raise NotImplementedError

    def fail(self, error: PeerUnreachable) -> None:
        raise NotImplementedError


class DeliverCall(Call):
    def __init__(self, entries: Sequence[Entry], delivery: Delivery) -> None:
        self._entries = list(entries)
        self._count = len(entries)
        self.ack_wait_s = max(map(_ack_wait_ms, entries), default=0) / 1000
        self._delivery = delivery
        self._pending: set[int] | None = None  # None: not answered yet

    def frame(self, number: int) -> bytes:
        entries, self._entries = self._entries, []  # the frame holds them from now on
        return encode(Deliver(number, entries))

    def take(self, answer: Answer) -> bool:
        if type(answer) is Outcomes and self._pending is None:
            return self._answered(answer.outcomes)
        if type(answer) is SettledLater and self._pending is not None:
            return self._settled(self._pending, answer.settled)
        raise PeerProtocolError(f"{type(answer).__name__} is no answer to this delivery")

    def _answered(self, outcomes: bytes) -> bool:
        check_outcomes(outcomes, self._count)
        self._pending = {i for i, o in enumerate(outcomes) if o == Outcome.PENDING} if 0 in outcomes else set()
        self._delivery.answered(outcomes)
        return not self._pending

    def _settled(self, pending: set[int], settled: list[tuple[int, int]]) -> bool:
        indices = {index for index, _ in settled}
        if len(indices) != len(settled) or not indices <= pending:
            raise PeerProtocolError("an outcome for an entry that has one already")
        if not FINAL.issuperset(outcome for _, outcome in settled):
            raise PeerProtocolError("an outcome that is none")
        pending -= indices
        self._delivery.settled(settled)
        return not pending

    def fail(self, error: PeerUnreachable) -> None:
        self._delivery.failed(error)


class BroadcastCall(Call):
    quick = False  # counts come when the slowest consumer has taken the message or is given up

    def __init__(self, message: Message, future: asyncio.Future[dict[int, int]]) -> None:
        self._message = message
        self._future = future

    def frame(self, number: int) -> bytes:
        message = self._message
        return encode(Broadcast(number, message.id, message.payload, message.kind))

    def take(self, answer: Answer) -> bool:
        if type(answer) is not Counts:
            raise PeerProtocolError(f"{type(answer).__name__} is no answer to a broadcast")
        if not FINAL.issuperset(answer.counts):
            raise PeerProtocolError("an outcome that is none")
        if not self._future.done():  # else the caller has given up
            self._future.set_result(answer.counts)
        return True

    def fail(self, error: PeerUnreachable) -> None:
        if not self._future.done():
            self._future.set_exception(error)


class CloseCall(Call):
    def __init__(self, client_id: str, epoch: int, code: int, future: asyncio.Future[bool]) -> None:
        self._request = (client_id, epoch, code)
        self._future = future

    def frame(self, number: int) -> bytes:
        return encode(Close(number, *self._request))

    def take(self, answer: Answer) -> bool:
        if type(answer) is not Closed:
            raise PeerProtocolError(f"{type(answer).__name__} is no answer to a close")
        if not self._future.done():
            self._future.set_result(answer.closed)
        return True

    def fail(self, error: PeerUnreachable) -> None:
        if not self._future.done():
            self._future.set_exception(error)


class Calls:
    """The calls that were sent on one connection. window: quick ones without their first answer."""

    def __init__(self, settle_timeout_s: float, answer_timeout_s: float) -> None:
        self._settle_timeout_s = settle_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._open: dict[int, tuple[Call, float]] = {}  # number → call, deadline
        self._unanswered: set[int] = set()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def window(self) -> int:
        return len(self._unanswered)

    def sent(self, number: int, call: Call, now_s: float) -> None:
        if call.quick:
            self._unanswered.add(number)
        self._open[number] = call, now_s + (self._answer_timeout_s if call.quick else self._settle_timeout_s)

    def answer(self, answer: Answer, now_s: float) -> None:
        number = answer.request
        try:
            call, _ = self._open[number]
        except KeyError:
            raise PeerProtocolError("an answer to a request that was not made") from None
        complete = call.take(answer)
        if number in self._unanswered:
            self._unanswered.discard(number)
            self._open[number] = call, now_s + self._settle_timeout_s + call.ack_wait_s
        if complete:
            del self._open[number]

    def overdue(self, now_s: float) -> bool:
        return any(deadline <= now_s for _, deadline in self._open.values())

    def fail(self, error: PeerUnreachable) -> None:
        calls, self._open = self._open, {}
        self._unanswered.clear()
        for call, _ in calls.values():
            call.fail(error)
