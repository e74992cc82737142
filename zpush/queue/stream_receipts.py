"""Receipts on Redis Streams: all in one stream, `<prefix>.receipts`, bounded by trimming.

Rules. Writing: one script call is under way at most, so receipts leave in batches by themselves under load. What a lost
connection left in doubt is written again. Reading: by time, a page after the other; the id is looked for here, since a
stream has no index.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial

from zpush.errors import QueueUnavailable, Unavailable
from zpush.log import SparseLog
from zpush.queue import scripts
from zpush.queue.base import RECEIPT_RETRY_S
from zpush.queue.layout import Layout
from zpush.queue.receipt import Receipt, decode, encode
from zpush.store import Future, Store

BATCH = 500  # a script call; some 2 ms of the server's time, in which it serves nobody else
LOOK_S = 1.0  # how often what the server did not take is tried again, or given up
STOP_S = 5.0
PAGE_ENTRIES = 1000
PAGE_BYTES = 1 << 20
WAIT_MS = 1000  # a blocking read; far below the store's reply timeout
log = logging.getLogger("zpush.queue")


class _Waiting:
    __slots__ = ("done", "id", "payload", "until_s")

    def __init__(self, id: str, payload: bytes, until_s: float, done: Callable[[bool], None]) -> None:
        self.id = id
        self.payload = payload
        self.until_s = until_s
        self.done = done


class StreamReceiptWriter:
    """Owns its store."""

    def __init__(self, store: Store, layout: Layout, keep: int) -> None:
        """keep: about how many receipts the stream holds."""
        self._store = store
        self._stream = layout.receipts
        self._keep = keep
        self._script = store.script(scripts.APPEND)
        self._waiting: deque[_Waiting] = deque()
        self._sending = False  # a call is under way, or about to be made
        self._stopped = False
        self._progress = asyncio.Event()  # for stop()
        self._sparse = SparseLog(log)
        store.on_connect(lambda changed: self._go_on())

    async def start(self) -> None:
        self._look()
        await self._store.start()

    async def stop(self) -> None:
        """Waits 5 s for what is under way."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                while (self._waiting or self._sending) and self._store.up:
                    self._progress.clear()
                    await self._progress.wait()
        self._stopped = True
        self._looking.cancel()
        await self._store.stop()

    def write(self, receipt: Receipt, done: Callable[[bool], None]) -> None:
        until_s = time.monotonic() + RECEIPT_RETRY_S
        self._waiting.append(_Waiting(receipt.id, encode(receipt), until_s, done))
        if not self._sending:
            self._go_on()

    def _go_on(self) -> None:
        """With the next turn of the loop, so that a turn's receipts leave together."""
        if self._waiting and not self._sending and self._store.up:
            self._sending = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        batch = list(itertools.islice(self._waiting, BATCH))
        for _ in batch:
            self._waiting.popleft()
        arguments = [part for each in batch for part in (each.id, each.payload)]
        answer = self._store.eval(self._script, self._stream, self._keep, *arguments)
        answer.add_done_callback(partial(self._answered, batch))

    def _answered(self, batch: Sequence[_Waiting], answer: Future) -> None:
        self._sending = False
        error = answer.exception()
        if self._stopped:
            return
        if isinstance(error, Unavailable):  # for a moment: again with the next look, or when it is connected
            self._waiting.extendleft(reversed(batch))
        else:
            self._settle(batch, "" if error is None else str(error))
            self._go_on()
        self._progress.set()

    def _settle(self, batch: Iterable[_Waiting], reason: str) -> None:
        """reason: why these are given up; "" where they are written."""
        for each in batch:
            each.done(not reason)
        if reason:
            self._sparse.warning("receipts are lost", reason=reason)

    def _look(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look)
        now_s = time.monotonic()
        late = list(itertools.takewhile(lambda each: each.until_s <= now_s, self._waiting))
        for _ in late:
            self._waiting.popleft()
        if late:
            self._settle(late, self._store.reason or "the server takes none")
        self._go_on()


_Entries = list[tuple[bytes, list[bytes]]]


class StreamReceiptReader:
    """Owns its store."""

    def __init__(self, store: Store, layout: Layout) -> None:
        self._store = store
        self._stream = layout.receipts
        self._script = store.script(scripts.SCAN)

    async def start(self) -> None:
        await self._store.start()
        if not self._store.up:
            raise QueueUnavailable(self._store.reason)  # says where

    async def stop(self) -> None:
        await self._store.stop()

    async def read(self, message_id: str, since_ms: int, follow: bool) -> AsyncIterator[Receipt]:
        after = b"%d" % max(0, since_ms - 1)
        is_at_end = False
        while follow or not is_at_end:
            entries = await (self._more(after) if is_at_end else self._page(after))
            for receipt in _receipts(entries, message_id):
                yield receipt
            after = entries[-1][0] if entries else after
            is_at_end = is_at_end or not entries

    async def _page(self, after: bytes) -> _Entries:
        entries: _Entries = await self._store.eval(self._script, self._stream, after, "+", PAGE_ENTRIES, PAGE_BYTES)
        return entries

    async def _more(self, after: bytes) -> _Entries:
        """What comes within WAIT_MS, if only just so many as are a page."""
        command = ("XREAD", "COUNT", PAGE_ENTRIES, "BLOCK", WAIT_MS, "STREAMS", self._stream, after)
        answer: list[tuple[bytes, _Entries]] | None = await self._store.call(self._stream, *command)
        return answer[0][1] if answer else []


def _receipts(entries: _Entries, message_id: str) -> Iterator[Receipt]:
    wanted = message_id.encode()
    for _, fields in entries:
        if wanted in fields:  # mostly not
            of = dict(zip(fields[::2], fields[1::2], strict=True))
            receipt = decode(of.get(b"payload"))
            if receipt is not None and of.get(b"key") == wanted and receipt.id == message_id:
                yield receipt
