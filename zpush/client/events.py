"""What a connection tells its client, whichever transport it uses.

Rules. A connection that was opened tells messages, what the server says about the connection itself, and one end; it
raises nothing. One that could not be opened raises Refused where the server said no, OSError or TimeoutError where
there was none.
"""

from __future__ import annotations

import builtins
import json
from dataclasses import dataclass, field
from typing import Any, Protocol

from zpush.errors import ZpushError


@dataclass(frozen=True, slots=True)
class Received:
    """One message. id: "" where the transport has none (zpush.raw).

    data: the JSON value or text as it was sent (zpush.v1), text (zpush.raw and event streams), or bytes for a binary
    payload. A text that was sent as text and a JSON string are the same here.
    """

    id: str
    data: Any

    def json(self) -> Any:
        """The JSON value, whichever transport brought it. ValueError where the payload is no JSON."""
        return json.loads(self.data) if isinstance(self.data, str | bytes) else self.data

    @property
    def text(self) -> str:
        """Text, or the JSON value's compact form. UnicodeDecodeError for a binary payload that is no text."""
        if isinstance(self.data, str):
            return self.data
        if isinstance(self.data, bytes):
            return self.data.decode()
        return json.dumps(self.data, ensure_ascii=False, separators=(",", ":"))

    @property
    def bytes(self) -> builtins.bytes:
        """A binary message's payload, else the text in UTF-8 (half a surrogate pair, as JSON may hold: "?")."""
        return self.data if isinstance(self.data, builtins.bytes) else self.text.encode(errors="replace")


@dataclass(frozen=True, slots=True)
class GoAway:
    """The server asks to be left. delay_s: when it wants to see the next connection; None where it does not say.

    reason: "max_age", "shutdown", "token_expires", or "" where it does not say.
    """

    reason: str = ""
    delay_s: float | None = None


@dataclass(frozen=True, slots=True)
class Renewed:
    """The server has taken the token that it was shown."""


@dataclass(frozen=True, slots=True)
class SecureToken:
    """The connection's own; comes first, where it was asked for."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ended:
    """code: a row of protocol.close, CUT or NO_CODE. reason: for people."""

    code: int
    reason: str = ""


class Refused(ZpushError):
    """The server answered the opening request, and not with a connection."""

    def __init__(self, status: int, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{status}: {reason}" if reason else str(status))
        self.status = status
        self.retry_after_s = retry_after_s


class Stopped(ZpushError):
    """The client does not come back by itself. code: the close code or HTTP status that says so; 0 where none does."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


Event = Received | GoAway | Renewed | SecureToken | Ended


class Connection(Protocol):
    """One open connection. receive() is called by one task; the others at any time, also after the end."""

    async def receive(self) -> Event:
        """The next event; Ended is the last."""
        ...

    def show(self, token: str) -> None:
        """Shows a newer token, where the transport can; Renewed says that it was taken."""
        ...

    def ack(self, id: str) -> None:
        """Says that a message was taken, where the transport can; best effort."""
        ...

    def leave(self, patience_s: float) -> None:
        """Asks the server to end it; what is still under way goes on arriving.

        patience_s: how long receive() waits for that, in all; the time that a slow consumer takes does not count.
        """
        ...

    async def close(self) -> None:
        """Gives the socket back. Nothing that was not received yet will be."""
        ...
