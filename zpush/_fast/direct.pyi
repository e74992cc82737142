"""The jobs of one request's direct pushes, for server/direct.py."""

from collections.abc import Callable, Iterable
from typing import Any, final

from zpush._fast.job import Job
from zpush._fast.tally import Outcomes

class Copies:
    def __init__(self, outcomes: Outcomes, pending: Any) -> None:
        """outcomes: where they are counted. pending: the Outcome of who has none."""

    @property
    def copies(self) -> list[Copy]: ...
    def add(self, message: Any, clients: Iterable[str], deadline_s: float) -> list[Copy]:
        """One for each client, in order."""

    def when_settled(self, tell: Callable[[], None]) -> None:
        """Calls it when no copy is without an outcome: now, or later."""

@final
class Copy(Job):
    """A push's message for one client."""

    @property
    def outcome(self) -> Any:
        """`pending` at the end where nobody knows of the client."""
