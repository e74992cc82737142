"""The contract of authentication: a request's head or a token in, an identity out, or Unauthorized.

A mode that needs no waiting answers with an Identity; one that calls out answers with an awaitable. Both raise, when
called or when awaited, Unauthorized with a text for the log, or Refusal where the client is told what is wrong: 503
with Retry-After where the one who knows is away, 403 where a new token would not help.

Life: open_authenticator (reads the files), `start` before the first request, `stop` after the last. A reload opens a
new one from the new settings, which may `take_over` what the old one has learned, starts it, and stops the old one:
so a bad file changes nothing, and an outage elsewhere is no worse for a reload. Modes inherit what they do not need.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol

import msgspec

from zpush.errors import Unauthorized

if TYPE_CHECKING:
    from zpush.protocol.handshake import Request


class Identity(msgspec.Struct, frozen=True):
    """Who a connection belongs to. expires_s: Unix seconds after which it must end, or None."""

    client_id: str
    user_id: str = ""
    expires_s: float | None = None


class Authenticator(Protocol):
    def authenticate(self, request: Request) -> Identity | Awaitable[Identity]:
        """Who asks for a connection."""
        ...

    def verify_token(self, token: bytes) -> Identity | Awaitable[Identity]:
        """Whom a token names that came as a message: delayed authentication, and an open connection's newer token."""
        raise Unauthorized("this auth.mode takes no tokens by message")

    def take_over(self, old: Authenticator) -> None:
        """Before start: keeps what the old one has learned from others, as far as the settings still agree."""
        return

    async def start(self) -> None:
        """Fetches what is needed, within seconds; where that is away, goes on trying in the background."""
        return

    async def stop(self) -> None:
        """Ends what runs in the background and closes connections."""
        return
