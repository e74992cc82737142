"""What open clients say: a first message that authenticates, newer tokens, acks, pings, and what comes back as it was.

Rules. A connection that was opened unknown says {"auth":"<token>"} and nothing else, in any protocol; what it says
meanwhile ends it. Later tokens extend zpush.v1 connections only, and only their own client's and user's: they move the
end of the connection, never its identity. The client is told when one was taken. A token is never logged, and never
echoed in a close reason.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable

from zpush._fast.engine import Engine
from zpush.auth.base import Authenticator, Identity
from zpush.errors import MalformedMessage, Unauthorized
from zpush.protocol import close, envelope
from zpush.protocol.handshake import Refusal
from zpush.server.acks import Acks
from zpush.server.front_door import TEXT, FrontDoor
from zpush.tasks import Tasks

_log = logging.getLogger("zpush.clients")


class Conversation:
    """The engine's on_message: zpush.v1 connections, and unknown ones of any protocol."""

    engine: Engine  # set once the engine exists

    def __init__(self, authenticator: Authenticator, front_door: FrontDoor, acks: Acks, echo: bool) -> None:
        """echo: what is no control message is sent back; what clients of other protocols say the engine sends back."""
        self.authenticator = authenticator
        self._front_door = front_door
        self._acks = acks
        self._echo = echo
        self._tasks = Tasks(_log)
        self._asking: set[int] = set()  # handles whose token is being verified elsewhere

    def on_message(self, handle: int, opcode: int, payload: bytes) -> None:
        client = self.engine.client(handle)
        try:
            control = envelope.decode_control(payload) if opcode == TEXT else None
        except MalformedMessage as e:
            self.engine.close(handle, close.UNEXPECTED_MESSAGE, e.reason.encode()[:123])
            return
        if isinstance(control, envelope.Auth):
            self._verify(handle, control.token)
        elif client is None:
            self.engine.close(handle, close.NOT_AUTHENTICATED, b'the first message must be {"auth":"<token>"}')
        elif isinstance(control, envelope.Ack):
            self._acks.acked(client[0].decode(), control.id)
        elif isinstance(control, envelope.Ping):
            self.engine.send(handle, TEXT, envelope.pong(control.value))
        elif self._echo:
            self.engine.send(handle, opcode, payload)

    def _verify(self, handle: int, token: bytes) -> None:
        """One token at a time: what comes while another is being verified ends the connection."""
        if handle in self._asking:
            self.engine.close(handle, close.UNEXPECTED_MESSAGE, b"a token is being verified already")
            return
        try:
            identity = self.authenticator.verify_token(token)
        except (Unauthorized, Refusal) as e:
            self._refuse(handle, e)
            return
        if isinstance(identity, Identity):
            self._accept(handle, identity)
        else:
            self._asking.add(handle)
            self._tasks.spawn(self._verify_later(handle, identity))

    async def _verify_later(self, handle: int, identity: Awaitable[Identity]) -> None:
        try:
            self._accept(handle, await identity)
        except (Unauthorized, Refusal) as e:
            self._refuse(handle, e)
        finally:
            self._asking.discard(handle)

    def _accept(self, handle: int, identity: Identity) -> None:
        client = self.engine.client(handle)
        if client is None:
            self._front_door.admit_unknown(handle, identity)
            return
        client_id, user_id, epoch = client
        if self._front_door.is_opening(handle):
            self.engine.close(handle, close.UNEXPECTED_MESSAGE, b"a token is being accepted already")
            return
        if (client_id, user_id) != (identity.client_id.encode(), identity.user_id.encode()):
            self.engine.close(handle, close.NOT_ACCEPTED, b"this token is another client's or user's")
            return
        remaining = self._front_door.remaining(epoch, time.time(), identity.expires_s)
        if remaining is not None and self.engine.admit(handle, epoch, *remaining):
            self.engine.send(handle, TEXT, envelope.AUTHENTICATED)

    def _refuse(self, handle: int, error: Unauthorized | Refusal) -> None:
        _log.debug("a token was not accepted: %s", error)
        if not isinstance(error, Refusal) or error.status != 503:
            self.engine.close(handle, close.NOT_ACCEPTED, b"this token is not accepted")
        elif self.engine.client(handle) is None:
            self.engine.close(handle, close.FULL, b"no token can be verified now")
        # else the token may be good: the connection goes on as it was, and ends with the token it has

    async def settle_down(self, timeout_s: float) -> None:
        await self._tasks.wait(timeout_s)
