"""Pushes through the queue itself.

Rules. Nearly every push is one message, which is made at once. What has several, or none, is taken apart here: its
result is that of its last message that failed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, cast

from zpush.delivery.push import Prepared, Push, prepare
from zpush.errors import MalformedMessage
from zpush.protocol.message import Message
from zpush.queue.base import Producer


class Singles(Protocol):
    """The short way of a usual push that comes alone; _fast/reports.pyx has it."""

    taken: int
    refused: int

    def watch(
        self, loop: asyncio.AbstractEventLoop, on_begun: Callable[[], None], on_quiet: Callable[[], None]
    ) -> None: ...

    def begin(self, fields: dict[str, Any]) -> asyncio.Future[str] | None: ...


class QueueSender:
    def __init__(
        self, producer: Producer, usual: Callable[[Push], Message | None], singles: Singles | None = None
    ) -> None:
        """usual: makes a message of nearly every push to one client at once, and None of others."""
        self.singles = singles
        self._producer = producer
        self._usual = usual
        self.start = producer.start
        self.stop = producer.stop

    def prepare(self, push: Push) -> Message | Prepared:
        return self._usual(push) or prepare(push)

    def send(self, pushes: Sequence[Message | Prepared]) -> Awaitable[list[Exception | None]]:
        if Prepared in map(type, pushes):
            return self._send_any(pushes)
        return self._producer.publish(cast("Sequence[Message]", pushes))

    def _send_any(self, pushes: Sequence[Message | Prepared]) -> Awaitable[list[Exception | None]]:
        now_ms = time.time_ns() // 1_000_000
        results: list[Exception | None] = [None] * len(pushes)
        owners: list[int] = []
        messages: list[Message] = []
        for i, push in enumerate(pushes):
            if isinstance(push, Prepared) and push.direct:
                results[i] = MalformedMessage("a direct push needs an http:// or https:// URL", "direct")
                continue
            of_push = [push] if isinstance(push, Message) else push.messages(now_ms)
            owners += [i] * len(of_push)
            messages += of_push
        return _merged(results, owners, self._producer.publish(messages))


async def _merged(
    results: list[Exception | None], owners: Sequence[int], published: Awaitable[list[Exception | None]]
) -> list[Exception | None]:
    for i, error in zip(owners, await published, strict=True):
        if error is not None:
            results[i] = error
    return results
