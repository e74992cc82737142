"""What the parts of delivery say to each other: entries, batches, and the worker's own clients.

Rules. A batch has two answers. The first comes at once: one outcome byte an entry, PENDING where the
message waits in a client's write buffer. Those few are settled later, one by one. So one slow
consumer holds up neither the outcomes of the messages it travelled with, nor a stale route's second
look-up, nor the bound of requests in flight. Every entry gets exactly one final outcome, or the
batch fails as a whole (PeerUnreachable) for what is not final yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Protocol

import msgspec

from zpush.errors import PeerUnreachable
from zpush.protocol.message import MAX_ID_BYTES, MAX_TOKEN_CHARACTERS, NEVER
from zpush.protocol.push import MAX_ACK_WAIT_S

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_BYTES)]

MAX_ACK_WAIT_MS = int(MAX_ACK_WAIT_S * 1000)

Settled = Sequence[tuple[int, int]]  # (index in the batch, final Outcome)


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One message for one client, as it travels between workers. The fields are the message's own."""

    client_id: _Id
    id: _Id
    payload: bytes
    kind: Annotated[int, msgspec.Meta(ge=1, le=3)]
    expires_ms: Annotated[int, msgspec.Meta(ge=0)] = NEVER
    ack_wait_ms: Annotated[int, msgspec.Meta(ge=0, le=MAX_ACK_WAIT_MS)] = 0
    secure_token: Annotated[str, msgspec.Meta(max_length=MAX_TOKEN_CHARACTERS)] = ""


class Delivery(Protocol):
    """Who waits for a batch: answered once, settled until nothing is PENDING; failed may end it at any point."""

    def answered(self, outcomes: bytes) -> None:
        """One byte an entry: an Outcome, NOT_HERE or PENDING."""
        ...

    def settled(self, settled: Settled) -> None: ...

    def failed(self, error: PeerUnreachable) -> None:
        """Nothing more will come: what has no final outcome yet may or may not have reached the client."""
        ...


class Local(Protocol):
    """The clients of this worker, held by its engine (server/local.py)."""

    def holds(self, client_id: str) -> bool:
        """A connection of this client is bound here."""
        ...

    def deliver(self, entries: Sequence[Entry], settled: Callable[[Settled], None]) -> bytes:
        """One outcome byte an entry, at once: NOT_HERE where the client is not here, EXPIRED where it is too late.

        Each PENDING one is told once and for all through `settled`, never from within this call.
        """
        ...

    def broadcast(self, id: str, payload: bytes, kind: int) -> asyncio.Future[dict[int, int]]:
        """To every open connection: {Outcome: connections} when all are settled."""
        ...

    def close_client(self, client_id: str, epoch: int, code: int) -> bool:
        """Closes the client's connection if it is not newer than epoch (0: whatever it is). True if one was closed."""
        ...
