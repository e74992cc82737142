"""Direct pushes of one request: a job for each client, and the answer when every outcome is known.

Rules. Where all clients are connected to this worker, every outcome is known before the router returns: nothing is made
to wait with then. Outcomes are counted as they come, also for a sender that has left. A client of whom nobody could say
whether it is connected has no outcome and counts as not taken: the sender is told, and says it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from zpush._fast.job import Job
from zpush.delivery.tally import Tally
from zpush.protocol.message import Message, Outcome, Priority

DIRECT_RETRY_S = 2.0
UNKNOWN = "the registry is away or repairs itself: nobody can say now whether this client is connected"
T = TypeVar("T")
_PENDING = Outcome.PENDING  # looking an enum's member up costs 50 ns


def direct_deadline_s() -> float:
    return asyncio.get_running_loop().time() + DIRECT_RETRY_S


class DirectPushes:
    """The direct pushes of one request: routed together, and answered when every outcome is known."""

    __slots__ = ("_count", "_left", "_tell", "copies")

    def __init__(self, tally: Tally) -> None:
        self.copies: list[Copy] = []
        self._count = tally.count
        self._left = 0
        self._tell: Callable[[], None] | None = None

    def add(self, message: Message, clients: Sequence[str], deadline_s: float) -> list[Copy]:
        """Outcomes are in the copies, in the order in which clients are named."""
        copies = [Copy(message, client, deadline_s, self) for client in clients]
        self.copies += copies
        self._left += len(copies)
        return copies

    def then(self, answer: Callable[[], T]) -> asyncio.Future[T]:
        """What answer() says when they are settled. A future and no task: that would cost as much as the push."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def tell() -> None:
            if not future.done():  # else the sender has left
                future.set_result(answer())

        if self._left:
            self._tell = tell
        else:
            tell()
        return future

    def one_settled(self, outcome: Outcome, priority: Priority) -> None:
        self._count(priority, False, outcome)
        self.one_less()

    def one_less(self) -> None:
        self._left -= 1
        if not self._left and self._tell is not None:
            self._tell()


class Copy(Job):
    """A push's message for one client. outcome: PENDING at the end where nobody knows of the client."""

    __slots__ = ("outcome", "request")

    def __init__(self, message: Message, client_id: str, deadline_s: float, request: DirectPushes) -> None:
        Job.__init__(self, message, client_id, deadline_s)
        self.request = request
        self.outcome = _PENDING

    def settle(self, outcome: Outcome, node_id: str) -> None:
        self.outcome = outcome
        self.request.one_settled(outcome, self.message.priority)

    def settle_unknown(self, outcome: Outcome) -> None:
        self.request.one_less()
