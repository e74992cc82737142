"""Bounds of a client, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """queued: messages read but not taken yet; at this many reading stops, and the server sees a slow consumer.

    message_bytes: a larger one ends the connection (1009). open_s: for connect, TLS and opening handshake together.
    silence_s: a connection from which nothing came for this long is taken for dead (a WebSocket is pinged first); more
    than the server's connections.keepalive, plus a fifth. handover_s: how long the old connection of a hand-over may
    take to end. remembered: ids by which doubles are found.
    """

    queued: int = 100
    message_bytes: int = 16 * 1024 * 1024
    open_s: float = 10.0
    silence_s: float = 75.0
    handover_s: float = 5.0
    remembered: int = 1000
