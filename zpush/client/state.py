"""What a client's program is told about its connection."""

from __future__ import annotations

import enum


class State(enum.Enum):
    """CONNECTING and WAITING: no connection; OPEN: reachable; HANDING_OVER: still reachable, on the way to the next
    connection; STOPPED: for good."""

    CONNECTING = "connecting"
    OPEN = "open"
    HANDING_OVER = "handing_over"
    WAITING = "waiting"
    STOPPED = "stopped"
