"""The push library: `Pusher` sends from any Python program, over a queue or the HTTP API.

Rules. It runs in the sender's process: no engine, no uvloop, and nothing is loaded that the URL does not
need. push() returns when the push is taken (its id) or, with direct=True, when its outcome is known; what was
not taken is an exception, never silence. After one, push again with the same id: a receiver
drops doubles by it. Several pushes to one client arrive in the order of their calls.

begin() is push() for who goes on meanwhile: its turn is the call, not the await.

flush() waits for all that was begun, close() for ten seconds at most: what is not taken by then is told so.

The same class works without asyncio: the methods named *_sync run on a loop in a thread of the Pusher's
own, and may be called from any thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from threading import get_ident
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, overload

import msgspec

from zpush.delivery.push import Push
from zpush.delivery.push_queue import QueueSender
from zpush.delivery.pushes import Counts, Fields, OnResult, Outcomes, PushesOfLoop, Result, Sender, result_of
from zpush.queue.open import is_kafka, open_producer

if TYPE_CHECKING:
    from zpush.config.settings import Kafka

__all__ = ["Counts", "Push", "Pusher", "QueueLayout"]

_CLOSED = "this Pusher is closed"
_T = TypeVar("_T")


class QueueLayout(msgspec.Struct, frozen=True):
    """How the servers' [queue] is set up; the sender's must be the same."""

    prefix: str = "zpush"
    partitions: int = 8  # of Streams; Kafka's topics know theirs
    max_messages: int = 1_000_000
    librdkafka: Mapping[str, str] = {}  # as under [queue.kafka]: {"security.protocol": "SASL_SSL", …}

    @property
    def kafka(self) -> Kafka:
        """What a Kafka producer reads of [queue.kafka]; loaded only for one."""
        from zpush.config.settings import Kafka

        return Kafka(client=self.librdkafka)

    def __repr__(self) -> str:
        """Without the values of librdkafka's settings: passwords may be among them."""
        return f"QueueLayout({self.prefix!r}, {self.partitions}, {self.max_messages}, {list(self.librdkafka)})"


class _Background:
    """An event loop in a daemon thread, for callers that have none."""

    def __init__(self, open_sender: Callable[[], Sender[Any]], on_result: OnResult | None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="zpush-pusher", daemon=True)
        self._thread.start()

        async def open_there() -> PushesOfLoop:
            return PushesOfLoop(open_sender(), on_result)

        self.pushes = self.run(open_there())

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        self.run(self.pushes.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Pusher:
    """kafka://, redis://, rediss://, unix:// (the queue), http://, https:// (the API). For `async with` or `with`."""

    def __init__(
        self, url: str, *, api_key: str = "", queue: QueueLayout | None = None, on_result: OnResult | None = None
    ) -> None:
        """api_key: for the API. queue: where the servers' [queue] is not the default. ConfigError for a wrong URL.

        on_result(id, result or exception) is called for each push that was sent, with what push() answers or raises:
        on the loop, or for the *_sync methods in the Pusher's own thread.
        """
        self._url = url
        self._api_key = api_key
        self._queue = queue or QueueLayout()
        self._on_result = on_result
        self._ours: PushesOfLoop | None = None  # on the caller's loop
        self._background: _Background | None = None
        self._in_the_background: PushesOfLoop | None = None  # its pushes; kept, as counts outlive the thread
        self._lock = threading.Lock()  # the *_sync methods may be called from any thread
        self._closed = False
        self._open_sender()  # a wrong URL is found here, not at the first push; nothing is connected yet

    # On an event loop

    @overload
    async def push(self, *, direct: Literal[False] = ..., **fields: Unpack[Fields]) -> str: ...

    @overload
    async def push(self, *, direct: Literal[True], **fields: Unpack[Fields]) -> Outcomes: ...

    async def push(self, *, direct: bool = False, **fields: Unpack[Fields]) -> Result:
        """One push: its id once it is taken; direct: what became of it.

        direct answers an Outcome for `client`, {client: Outcome} for `clients` and `user` (empty: the user has no
        device), {Outcome: connections} for `all`. Raises MalformedMessage, QueueFull, QueueUnavailable,
        RegistryUnavailable, Unauthorized.
        """
        ours = self._on_this_loop()
        begun = None if direct else ours.begin_usual(fields)
        if begun is not None:
            return await begun
        return result_of(await ours.send([ours.prepare(Push(direct=direct, **fields))]))

    @overload
    def begin(self, *, direct: Literal[False] = ..., **fields: Unpack[Fields]) -> asyncio.Future[str]: ...

    @overload
    def begin(self, *, direct: Literal[True], **fields: Unpack[Fields]) -> asyncio.Future[Outcomes]: ...

    def begin(self, *, direct: bool = False, **fields: Unpack[Fields]) -> asyncio.Future[Any]:
        """push(), begun: it has its turn by when this returns. Awaiting the future gives what push() does.

        MalformedMessage is raised at once, the other exceptions where it is awaited. Cancelling it takes nothing back.
        """
        return self._on_this_loop().begin(direct, fields)

    async def push_many(self, pushes: Iterable[Push]) -> list[Result | Exception]:
        """Several pushes in one batch: a result or an exception each, in order. One that fails spoils no other."""
        return await self._on_this_loop().push_many(pushes)

    async def flush(self, timeout_s: float | None = None) -> None:
        """Returns when every push that was begun on this loop is taken or has failed; or TimeoutError."""
        if self._ours is not None:
            await self._on_this_loop().flush(timeout_s)

    async def close(self) -> None:
        """flush() for 10 s at most, and the connections are given up."""
        if self._ours is not None and not self._closed:
            await self._on_this_loop().close()
        await asyncio.to_thread(self.close_sync)

    async def __aenter__(self) -> Self:
        await asyncio.shield(self._on_this_loop().start())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # Without one, from any thread

    @overload
    def push_sync(self, *, direct: Literal[False] = ..., **fields: Unpack[Fields]) -> str: ...

    @overload
    def push_sync(self, *, direct: Literal[True], **fields: Unpack[Fields]) -> Outcomes: ...

    def push_sync(self, *, direct: bool = False, **fields: Unpack[Fields]) -> Result:
        """push(), for programs without an event loop."""
        background = self._in_background()
        theirs = background.pushes
        return result_of(background.run(theirs.send([theirs.prepare(Push(direct=direct, **fields))])))

    def push_many_sync(self, pushes: Iterable[Push]) -> list[Result | Exception]:
        """As push_many, without a loop."""
        background = self._in_background()
        return background.run(background.pushes.push_many(pushes))

    def flush_sync(self, timeout_s: float | None = None) -> None:
        """Returns when every push that was begun by a *_sync method is taken or has failed; or TimeoutError."""
        background = self._in_background()
        background.run(background.pushes.flush(timeout_s))

    def close_sync(self) -> None:
        """What the *_sync methods use is given up; nothing can be pushed any more."""
        with self._lock:
            self._closed = True
            background, self._background = self._background, None
        if background is not None:
            background.close()

    def __enter__(self) -> Self:
        self._in_background()
        return self

    def __exit__(self, *_: object) -> None:
        self.close_sync()

    # Both

    @property
    def counts(self) -> Counts:
        """Of all pushes that this Pusher has sent."""
        both = [each.counts for each in (self._ours, self._in_the_background) if each is not None]
        return Counts(sum(each.taken for each in both), sum(each.refused for each in both))

    def _on_this_loop(self) -> PushesOfLoop:
        """asyncio.get_running_loop() would ask the system for the process's id each time."""
        if self._closed:
            raise RuntimeError(_CLOSED)
        if self._ours is None:
            self._ours = PushesOfLoop(self._open_sender(), self._on_result)
        elif not self._ours.loop.is_running() or self._ours.thread != get_ident():
            raise RuntimeError("this Pusher belongs to another event loop: make one per loop, or use push_sync")
        return self._ours

    def _in_background(self) -> _Background:
        with self._lock:
            if self._closed:
                raise RuntimeError(_CLOSED)
            if self._background is None:
                self._background = _Background(self._open_sender, self._on_result)
                self._in_the_background = self._background.pushes
            return self._background

    def _open_sender(self) -> Sender[Any]:
        """ConfigError where the URL is wrong."""
        if self._url.startswith(("http://", "https://")):
            from zpush.delivery.push_http import HttpSender

            return HttpSender(self._url, self._api_key)
        if is_kafka(self._url):
            from zpush.delivery.usual_push import kafka_sender

            return kafka_sender(self._queue, self._url)
        return QueueSender(open_producer(self._queue, self._url), lambda _: None)
