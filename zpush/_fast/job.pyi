"""One message for one client, to be routed, for delivery/.

Whoever has it routed says in a subclass what its outcome means.
"""

from typing import Any

class Job:
    """message: a protocol.message.Message.

    deadline_s: loop.time() after which it is not tried again, whatever the reason. 0.0: the message's own end, and for
    owners that cannot be reached the router's retry window. end_s and order are the router's own.
    """

    message: Any
    client_id: str
    deadline_s: float
    end_s: float
    order: int

    def __init__(self, message: Any, client_id: str, deadline_s: float = 0.0) -> None: ...
    def settle(self, outcome: Any, node_id: str) -> None:
        """Called exactly once, from the loop; must not raise. node_id: the owner that said so, "" where none did."""

    def settle_unknown(self, outcome: Any) -> None:
        """In place of settle() where nobody could say whether the client is connected.

        outcome: EXPIRED, it has waited long enough; DROPPED, there was no room for it to wait.
        """
