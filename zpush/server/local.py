"""This worker's own clients, as delivery sees them: Local over the engine.

Rules. Strings become bytes here and nowhere else on the way in. A message that expired while it travelled is
EXPIRED, one that names another connection's secure token REJECTED; one that waits in a write buffer, or for
the client's ack, is PENDING and settled later, through the callback of its batch. Only zpush.v1 has acks: nobody waits
for any other client's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from zpush._fast.engine import V1, Engine
from zpush.delivery.base import Entry, Settled
from zpush.protocol.message import NEVER, Outcome
from zpush.protocol.secure_token import SecureTokens
from zpush.server.acks import Acks

if TYPE_CHECKING:
    from zpush.server.front_door import FrontDoor


class EngineLocal:
    """Implements delivery.base.Local; on_close, on_settled and on_broadcast are of the engine's callbacks."""

    engine: Engine  # set once the engine exists; it needs these callbacks to be made
    front_door: FrontDoor  # likewise

    def __init__(self, acks: Acks, tokens: SecureTokens) -> None:
        self._acks = acks
        self._tokens = tokens
        self._waiting: dict[int, tuple[int, Callable[[Settled], None]]] = {}  # token → index, whom to tell
        self._broadcasts: dict[int, asyncio.Future[dict[int, int]]] = {}

    def holds(self, client_id: str) -> bool:
        return self.engine.find(client_id.encode()) != 0

    def deliver(self, entries: Sequence[Entry], settled: Callable[[Settled], None]) -> bytes:
        now_ms = time.time_ns() // 1_000_000
        for entry in entries:
            if entry.secure_token or NEVER < entry.expires_ms <= now_ms:
                return self._deliver_rest(entries, settled, now_ms)
        return bytes(self._deliver(entries, settled))

    def _deliver(self, entries: Sequence[Entry], settled: Callable[[Settled], None]) -> bytearray:
        outcomes, pending = self.engine.deliver_many(
            [(e.client_id.encode(), e.id.encode(), e.payload, e.kind) for e in entries]
        )
        for index, token in pending:
            tell = settled if not entries[index].ack_wait_ms else partial(self._await_ack, entries[index], settled)
            self._waiting[token] = index, tell
        for index in [i for i, entry in enumerate(entries) if entry.ack_wait_ms]:
            waits = outcomes[index] == Outcome.DELIVERED
            if waits and self._expect(entries[index], partial(_tell_one, settled, index)):
                outcomes[index] = Outcome.PENDING
        return outcomes

    def _deliver_rest(self, entries: Sequence[Entry], settled: Callable[[Settled], None], now_ms: int) -> bytes:
        """Without those that came too late or name another connection; indices count in the whole batch."""
        refusals = [self._refusal(entry, now_ms) for entry in entries]
        alive = [i for i, refusal in enumerate(refusals) if refusal is None]
        outcomes = bytearray(refusal or Outcome.PENDING for refusal in refusals)
        answered = self._deliver([entries[i] for i in alive], lambda some: settled([(alive[i], o) for i, o in some]))
        for index, outcome in zip(alive, answered, strict=True):
            outcomes[index] = outcome
        return bytes(outcomes)

    def _refusal(self, entry: Entry, now_ms: int) -> Outcome | None:
        if entry.expires_ms != NEVER and entry.expires_ms <= now_ms:
            return Outcome.EXPIRED
        if not entry.secure_token:
            return None
        client = self.engine.client(self.engine.find(entry.client_id.encode()))
        if client is None:
            return Outcome.NOT_HERE
        return None if self._tokens.matches(entry.secure_token, entry.client_id, client[2]) else Outcome.REJECTED

    def _expect(self, entry: Entry, tell: Callable[[Outcome], None]) -> bool:
        may_ack = self._may_ack(entry.client_id.encode())
        return may_ack and self._acks.expect(entry.client_id, entry.id, entry.ack_wait_ms / 1000, tell)

    def _may_ack(self, client_id: bytes) -> bool:
        handle = self.engine.find(client_id)
        return handle != 0 and self.front_door.agreed.protocol(handle) == V1

    def _await_ack(self, entry: Entry, settled: Callable[[Settled], None], outcomes: Settled) -> None:
        """It waited in the write buffer; now that it is out, the ack is waited for."""
        [(index, outcome)] = outcomes
        if outcome != Outcome.DELIVERED or not self._expect(entry, partial(_tell_one, settled, index)):
            settled(outcomes)

    def on_close(self, client_id: bytes) -> None:
        """A connection of the client has ended. It may have a newer one here, and ack on that."""
        if not self._may_ack(client_id):
            self._acks.gone(client_id.decode())

    def on_settled(self, settled: Sequence[tuple[int, int]]) -> None:
        by_batch: dict[Callable[[Settled], None], list[tuple[int, int]]] = {}
        for token, outcome in settled:
            index, tell = self._waiting.pop(token)
            by_batch.setdefault(tell, []).append((index, outcome))
        for tell, outcomes in by_batch.items():
            tell(outcomes)

    def broadcast(self, id: str, payload: bytes, kind: int) -> asyncio.Future[dict[int, int]]:
        future: asyncio.Future[dict[int, int]] = asyncio.get_running_loop().create_future()
        self._broadcasts[self.engine.broadcast(id.encode(), payload, kind)] = future
        return future

    def on_broadcast(self, token: int, counts: Mapping[int, int]) -> None:
        future = self._broadcasts.pop(token)
        if not future.done():  # else nobody waits any more
            future.set_result(dict(counts))

    def close_client(self, client_id: str, epoch: int, code: int) -> bool:
        return self.front_door.close_client(client_id.encode(), epoch, code)


def _tell_one(settled: Callable[[Settled], None], index: int, outcome: Outcome) -> None:
    settled([(index, outcome)])
