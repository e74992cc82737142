"""zpush: push messaging for millions of devices.

`Pusher` sends, `Client` receives; both run in other people's processes, so that importing zpush loads
nothing until a name is asked for, and never the engine or uvloop.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zpush.client import Client
    from zpush.delivery.pusher import Push, Pusher
    from zpush.errors import QueueFull, Unavailable, ZpushError
    from zpush.protocol.message import Kind, Message, Outcome, Priority

__version__ = "0.1.0"

__all__ = [
    "Client",
    "Kind",
    "Message",
    "Outcome",
    "Priority",
    "Push",
    "Pusher",
    "QueueFull",
    "Unavailable",
    "ZpushError",
    "__version__",
]

_HOMES = {
    "Client": "zpush.client",
    "Push": "zpush.delivery.pusher",
    "Pusher": "zpush.delivery.pusher",
    "QueueFull": "zpush.errors",
    "Unavailable": "zpush.errors",
    "ZpushError": "zpush.errors",
    "Kind": "zpush.protocol.message",
    "Message": "zpush.protocol.message",
    "Outcome": "zpush.protocol.message",
    "Priority": "zpush.protocol.message",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'zpush' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
