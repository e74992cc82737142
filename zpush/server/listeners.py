"""The listening sockets of one worker: what the master makes and a worker serves."""

from __future__ import annotations

import socket
from typing import NamedTuple


class Listeners(NamedTuple):
    """One slot's sockets; a worker has these and no other slot's."""

    client: socket.socket
    api: socket.socket
    peers: socket.socket

    def close(self) -> None:
        for each in self:
            each.close()
