"""The function of docs/authentication.md."""

from __future__ import annotations

from zpush.auth.base import Identity
from zpush.protocol.handshake import Request

SESSIONS = {"s3cr3t": ("device-1", "user-1")}


def who(request: Request) -> Identity | None:
    session = request.header(b"x-session").decode("latin-1")
    client, user = SESSIONS.get(session, ("", ""))
    return Identity(client, user) if client else None
