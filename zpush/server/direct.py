"""Direct pushes of one request: a job for each client, and the answer when every outcome is known.

Rules. Where all clients are connected to this worker, every outcome is known before the router returns: nothing is made
to wait with then. Outcomes are counted as they come, also for a sender that has left. A client of whom nobody could say
whether it is connected has no outcome and counts as not taken: the sender is told, and says it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from zpush._fast.direct import Copies, Copy
from zpush.delivery.tally import Tally
from zpush.protocol.message import Outcome

__all__ = ["UNKNOWN", "Copy", "DirectPushes", "direct_deadline_s"]

DIRECT_RETRY_S = 2.0
UNKNOWN = "the registry is away or repairs itself: nobody can say now whether this client is connected"
T = TypeVar("T")
_PENDING = Outcome.PENDING  # looking an enum's member up costs 50 ns


def direct_deadline_s() -> float:
    return asyncio.get_running_loop().time() + DIRECT_RETRY_S


class DirectPushes(Copies):
    """The direct pushes of one request: routed together, and answered when every outcome is known."""

    __slots__ = ()

    def __init__(self, tally: Tally) -> None:
        super().__init__(tally.outcomes, _PENDING)

    def then(self, answer: Callable[[], T]) -> asyncio.Future[T]:
        """What answer() says when they are settled. A future and no task: that would cost as much as the push."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def tell() -> None:
            if not future.done():  # else the sender has left
                future.set_result(answer())

        self.when_settled(tell)
        return future
