"""The queue's contract: messages by priority, read at least once, forgotten only after their outcome.

Rules. A record is taken by one reader at a time; a client's records keep their order within a priority.
`take` never blocks and never mixes priorities. `finish` says that the outcomes of these records are
known; what was taken and never finished is read again by whoever holds the partition next, and is then
marked as redelivered. A record that cannot be read goes to `<prefix>.dead` and blocks nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from zpush.protocol.message import Message, Priority
from zpush.queue.dead_letter import DeadLetter
from zpush.queue.presence import PresenceEvent
from zpush.queue.receipt import Receipt

if TYPE_CHECKING:
    from zpush._fast.record import Record  # senders need nothing of C

RECEIPT_RETRY_S = 30.0


class Lag(msgspec.Struct, frozen=True):
    """messages: not yet finished. age_s: of the oldest of them, 0.0 where there is none."""

    messages: int
    age_s: float


class Producer(Protocol):
    @property
    def up(self) -> bool:
        """The back end's server is connected."""
        ...

    @property
    def reason(self) -> str:
        """Why it is not up; "" where it is."""
        ...

    async def lag(self) -> dict[Priority, Lag]:
        """Of every priority, with or without a consumer; QueueUnavailable where the server is away."""
        ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def publish(self, messages: Sequence[Message]) -> Awaitable[list[Exception | None]]:
        """Per message: None (taken, as durable as the back end is), QueueFull, QueueUnavailable or MalformedMessage.

        They have their turn from the call on, awaited or not.
        """
        ...


class Consumer(Protocol):
    @property
    def up(self) -> bool:
        """The back end's server is connected."""
        ...

    @property
    def reason(self) -> str:
        """Why it is not up; "" where it is."""
        ...

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Gives up its partitions after what was finished is committed."""
        ...

    def take(self, priority: Priority, limit: int) -> list[Record]:
        """Up to `limit` records that are already here, in order per partition; [] where there are none."""
        ...

    async def wait(self, priorities: Sequence[Priority] = tuple(Priority)) -> None:
        """Returns when take() of one of these would give something."""
        ...

    def finish(self, records: Sequence[Record]) -> None:
        """Outcomes are known: forget these. Batched; a failure is retried until the partition is lost."""
        ...

    def on_revoked(self, callback: Callable[[Priority, int], None]) -> None:
        """callback(priority, partition): its unfinished records belong to another reader now."""
        ...

    async def lag(self) -> dict[Priority, Lag]: ...


class ReceiptWriter(Protocol):
    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Waits some seconds for what is under way."""
        ...

    def write(self, receipt: Receipt, done: Callable[[bool], None]) -> None:
        """done(written) is called once, possibly from within this call; never for what stop() leaves unwritten.

        At least once: tried for RECEIPT_RETRY_S while the server is away. What it refuses is given up at once.
        """
        ...


class ReceiptReader(Protocol):
    async def start(self) -> None:
        """QueueUnavailable where there is nothing to read from."""
        ...

    async def stop(self) -> None: ...

    def read(self, message_id: str, since_ms: int, follow: bool) -> AsyncIterator[Receipt]:
        """Those of one message, in the order in which they were written. since_ms: Unix, by the clocks of who wrote.

        follow: after those that are there it waits for more. What is no receipt is passed over.
        """
        ...


class PresenceWriter(Protocol):
    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def write(self, events: Sequence[PresenceEvent]) -> None:
        """In this order. QueueUnavailable: nobody knows which of them are written; all are to be written again."""
        ...


class DeadLetters(Protocol):
    """What could not be read, and was not replayed."""

    async def start(self) -> None:
        """QueueUnavailable where there is nothing to read from."""
        ...

    async def stop(self) -> None: ...

    async def count(self) -> int:
        """About how many there are."""
        ...

    def read(self) -> AsyncIterator[list[DeadLetter]]:
        """The oldest first, up to those that are there now; in batches that are bounded in bytes."""
        ...

    async def find(self, name: str) -> DeadLetter | None:
        """The letter of this name. MalformedMessage where it cannot be a name."""
        ...

    async def replay(self, letters: Sequence[DeadLetter]) -> list[Exception | None]:
        """Publishes the records again where they came from, as they were, and is done with the letters.

        Per letter: None, MalformedMessage (it does not say what came from where), QueueFull or QueueUnavailable; those
        are left as they were. A failure between the two steps may publish a record again.
        """
        ...
