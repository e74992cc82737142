"""The owner's side: takes calls from other workers and processors, and asks this worker's Local.

Rules. A caller has one connection per priority: a new one ends the old, so that what a caller gave up on
is never taken after what it sent again. Strangers (no hello yet) are few and short-lived. A batch is
answered in the turn in which it was read; what is PENDING then is told as it settles. A caller that
breaks the protocol is dropped with one log line, and its batches are not settled for anybody.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from zpush.delivery.base import Local, Settled
from zpush.delivery.broadcasts import Broadcasts
from zpush.delivery.peer_frames import (
    Broadcast,
    Close,
    Closed,
    Counts,
    Deliver,
    Outcomes,
    PeerProtocolError,
    SettledLater,
    decode_request,
    encode,
)
from zpush.delivery.peer_hello import HELLO_TIMEOUT_S, OwnerHello
from zpush.delivery.peer_link import PeerLink
from zpush.log import SparseLog
from zpush.protocol.message import Priority

MAX_STRANGERS = 128
MAX_CALLERS = 4096  # connections: three for each worker and processor of a cell

_log = logging.getLogger("zpush.peers")


class OwnerLink(PeerLink):
    """One caller's connection at one priority."""

    def __init__(self, server: PeerServer, hello: OwnerHello, hello_timeout_s: float) -> None:
        super().__init__(hello_timeout_s)
        self._server = server
        self._hello = hello
        self._take = self._greeted  # what the next frame is

    @property
    def caller(self) -> tuple[str, Priority]:
        return self._hello.caller, self._hello.priority

    def on_connected(self) -> None:
        self._server.stranger(self)

    def on_frame(self, body: bytes) -> int:
        return self._take(body)

    def _greeted(self, body: bytes) -> int:
        challenge, go_on = self._hello.greeted(body)
        self.send(challenge)
        if not go_on:
            self.finish(PeerProtocolError("the caller speaks another version of the peers' protocol"))
        self._take = self._proved
        return 1

    def _proved(self, body: bytes) -> int:
        self.send(self._hello.proved(body))
        self.opened()
        self._server.welcomed(self)
        self._take = self._requested
        return 1

    def _requested(self, body: bytes) -> int:
        request = decode_request(body)
        if type(request) is Deliver:
            number = request.request
            outcomes = self._server.local.deliver(request.entries, partial(self._settled, number))
            self.send(encode(Outcomes(number, outcomes)))
            return len(request.entries)
        if type(request) is Broadcast:
            counting = self._server.broadcasts.send(request.id, request.payload, request.kind)
            counting.add_done_callback(partial(self._counted, request.request))
        elif type(request) is Close:
            closed = self._server.local.close_client(request.client_id, request.epoch, request.code)
            self.send(encode(Closed(request.request, closed)))
        return 1

    def _settled(self, number: int, settled: Settled) -> None:
        if self.failure is None:
            self.send(encode(SettledLater(number, list(settled))))

    def _counted(self, number: int, counting: asyncio.Future[dict[int, int]]) -> None:
        if self.failure is not None or counting.cancelled():
            return  # cancelled: this worker is leaving, and with it the connection
        self.send(encode(Counts(number, counting.result())))

    def on_lost(self, error: Exception) -> None:
        self._server.lost(self, error)


class PeerServer:
    """loop.create_server(server.protocol_factory, sock=…) makes it listen; close() ends its connections."""

    def __init__(self, local: Local, secret: bytes, node_id: str, hello_timeout_s: float = HELLO_TIMEOUT_S) -> None:
        self.local = local
        self.broadcasts = Broadcasts(local)
        self._secret = secret
        self._node_id = node_id
        self._hello_timeout_s = hello_timeout_s
        self._strangers: set[OwnerLink] = set()
        self._callers: dict[tuple[str, Priority], OwnerLink] = {}
        self._sparse = SparseLog(_log)
        OwnerHello(secret, node_id)  # a bad secret is found here, not at the first caller

    @property
    def connections(self) -> int:
        return len(self._strangers) + len(self._callers)

    def protocol_factory(self) -> OwnerLink:
        return OwnerLink(self, OwnerHello(self._secret, self._node_id), self._hello_timeout_s)

    def close(self) -> None:
        """Ends every connection. What its callers wait for fails, and they try elsewhere or later."""
        for link in (*self._strangers, *self._callers.values()):
            link.drop(ConnectionAbortedError("this worker is leaving"))

    # ---- called by the links

    def stranger(self, link: OwnerLink) -> None:
        self._strangers.add(link)
        if len(self._strangers) > MAX_STRANGERS:
            link.drop(PeerProtocolError(f"more than {MAX_STRANGERS} connections without a hello"))

    def welcomed(self, link: OwnerLink) -> None:
        self._strangers.discard(link)
        older = self._callers.get(link.caller)
        if older is not None:
            older.drop(ConnectionAbortedError("the caller made a new connection"))
        self._callers[link.caller] = link
        if len(self._callers) > MAX_CALLERS:
            link.drop(PeerProtocolError(f"more than {MAX_CALLERS} callers"))

    def lost(self, link: OwnerLink, error: Exception) -> None:
        self._strangers.discard(link)
        if self._callers.get(link.caller) is link:
            del self._callers[link.caller]
        if isinstance(error, PeerProtocolError):
            self._sparse.warning("dropped a caller of the internal port", reason=str(error), caller=link.caller[0])
