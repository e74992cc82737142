"""Whose connection it is, where proxies stand in front.

Rules. A PROXY header is the engine's to read; what proxies write into a request's head is read here, once the head
is parsed. From then on the request's peer is the client, for authentication and logs as well as for its limits.
Without trusted proxies nothing is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from zpush._fast.engine import Engine
from zpush.protocol.forwarded import Networks, client_address
from zpush.protocol.head import Request


class Proxies:
    """connections.trusted_proxies."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = Networks(networks)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def resolve(self, engine: Engine, handle: int, request: Request) -> Request | None:
        """The request as its client's own. None: the client's address has its share of connections and was told so."""
        address = client_address(request, self._networks)
        if address is None:
            return request
        if not engine.set_peer(handle, address):
            return None
        # The client's port is known to its proxy only, which tells it in one of three ways or not at all: 0.
        return msgspec.structs.replace(request, peer=f"[{address}]:0" if ":" in address else f"{address}:0")
