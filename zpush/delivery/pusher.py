"""The push library: `Pusher` sends from any Python program, over a queue or the HTTP API.

Rules. It runs in the sender's process: no engine, no uvloop, and nothing is loaded that the URL does not
need. push() returns when the push is taken (its id) or, with direct=True, when its outcome is known; what was
not taken is an exception, never silence. After one, push again with the same id: a receiver
drops doubles by it. Several pushes to one client arrive in the order of their calls.

flush() waits for all that was begun, close() for ten seconds at most: what is not taken by then is told so.

The same class works without asyncio: the methods named *_sync run on a loop in a thread of the Pusher's
own, and may be called from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypedDict, TypeVar, Unpack, cast, overload

import msgspec

from zpush.delivery.push import Push
from zpush.delivery.push_queue import QueueSender, Singles
from zpush.errors import MalformedMessage
from zpush.protocol.message import Outcome, Priority
from zpush.queue.open import is_kafka, open_producer

if TYPE_CHECKING:
    from zpush.config.settings import Kafka

__all__ = ["Push", "Pusher"]

Outcomes = Outcome | dict[str, Outcome] | dict[Outcome, int]
Result = str | Outcomes
OnResult = Callable[[str, Result | Exception], None]
_CLOSED = "this Pusher is closed"
CLOSE_S = 10.0
_T = TypeVar("_T")
_P = TypeVar("_P")


class Fields(TypedDict, total=False):
    """Exactly one of client, clients, user and all; exactly one of data, text and binary. See Push."""

    client: str
    clients: Sequence[str]
    user: str
    all: bool
    data: Any
    text: str
    binary: bytes
    priority: str | Priority
    ttl: float | None
    id: str | None
    wait_ack: float | None
    secure_token: str | None


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


class _Sender(Protocol[_P]):
    @property
    def singles(self) -> Singles | None: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def prepare(self, push: Push) -> _P:
        """What send() takes; MalformedMessage."""
        ...

    def send(self, pushes: Sequence[_P]) -> Awaitable[list[Any]]:
        """Per push: its result, an exception, or None: taken, and there is no more to say than its id."""
        ...


class Counts(msgspec.Struct, frozen=True):
    """Pushes that were sent, by what came back: a result, or an exception."""

    taken: int
    refused: int


class _OnLoop:
    """The pushes of one event loop."""

    def __init__(self, sender: _Sender[Any], on_result: OnResult | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = get_ident()
        self.prepare = sender.prepare
        self._taken = 0
        self._refused = 0
        self._sender = sender
        self._singles = sender.singles if on_result is None else None
        self._on_result = on_result
        self._started: asyncio.Task[None] | None = None
        self._line = asyncio.Lock()  # until it has started; fair, so that pushes go on in the order of their calls
        self._in_line = 0
        self._is_started = False
        self._under_way = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        if self._singles is not None:
            self._singles.watch(self.loop, self._begun, self._ended)

    @property
    def counts(self) -> Counts:
        if self._singles is None:
            return Counts(self._taken, self._refused)
        return Counts(self._taken + self._singles.taken, self._refused + self._singles.refused)

    async def start(self) -> None:
        self._in_line += 1
        try:
            async with self._line:
                if self._started is None:
                    self._started = asyncio.create_task(self._sender.start())
                if not self._started.done():
                    await asyncio.shield(self._started)
                self._started.result()  # every push is told what keeps it from starting, and not just the first
        finally:
            self._in_line -= 1
        self._is_started = not self._in_line

    def begin(self, fields: dict[str, Any]) -> asyncio.Future[str] | None:
        """A usual push; None where it needs send(), and nothing has happened."""
        return self._singles.begin(fields) if self._is_started and self._singles is not None else None

    async def push_many(self, pushes: Iterable[Push]) -> list[Result | Exception]:
        sound: list[Any] = []
        malformed: list[tuple[int, MalformedMessage]] = []
        for place, push in enumerate(pushes):
            try:
                sound.append(self.prepare(push))
            except MalformedMessage as e:
                malformed.append((place, e))
        results = await self.send(sound)
        for place, error in malformed:
            results.insert(place, error)
        return results

    async def send(self, pushes: Sequence[Any]) -> list[Any]:
        """pushes: what prepare() has made. Per push: its result or an exception."""
        self._begun()
        try:
            if not self._is_started:
                await self.start()
            results = await self._sender.send(pushes)
        finally:
            self._ended()
        self._judge(pushes, results)
        return results

    def _begun(self) -> None:
        """A call is under way; all singles are one."""
        self._under_way += 1
        self._quiet.clear()

    def _ended(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._quiet.set()

    def _judge(self, pushes: Sequence[Any], results: list[Any]) -> None:
        """Counts and tells them. A None becomes the push's id."""
        refused = 0
        for place, result in enumerate(results):
            if result is None:
                results[place] = pushes[place].id
            elif isinstance(result, Exception):
                refused += 1
        self._refused += refused
        self._taken += len(results) - refused
        if self._on_result is not None:
            for push, result in zip(pushes, results, strict=True):
                self._on_result(push.id, result)

    async def flush(self, timeout_s: float | None = None) -> None:
        async with asyncio.timeout(timeout_s):
            await self._quiet.wait()

    async def close(self) -> None:
        with contextlib.suppress(TimeoutError):
            await self.flush(CLOSE_S)
        if self._started is not None:
            await asyncio.wait({self._started})
            if self._started.exception() is None:
                await self._sender.stop()


def _result(results: list[Any]) -> Result:
    """Of a single push."""
    result: Result | Exception = results[0]
    if isinstance(result, Exception):
        raise result
    return result


class _Background:
    """An event loop in a daemon thread, for callers that have none."""

    def __init__(self, open_sender: Callable[[], _Sender[Any]], on_result: OnResult | None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="zpush-pusher", daemon=True)
        self._thread.start()

        async def open_there() -> _OnLoop:
            return _OnLoop(open_sender(), on_result)

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
        self._ours: _OnLoop | None = None  # on the caller's loop
        self._background: _Background | None = None
        self._in_the_background: _OnLoop | None = None  # its pushes; kept, as counts outlive the thread
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
        begun = None if direct else ours.begin(cast("dict[str, Any]", fields))
        if begun is not None:
            return await begun
        return _result(await ours.send([ours.prepare(Push(direct=direct, **fields))]))

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
        await self._on_this_loop().start()
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
        return _result(background.run(theirs.send([theirs.prepare(Push(direct=direct, **fields))])))

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

    def _on_this_loop(self) -> _OnLoop:
        """asyncio.get_running_loop() would ask the system for the process's id each time."""
        if self._closed:
            raise RuntimeError(_CLOSED)
        if self._ours is None:
            self._ours = _OnLoop(self._open_sender(), self._on_result)
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

    def _open_sender(self) -> _Sender[Any]:
        """ConfigError where the URL is wrong."""
        if self._url.startswith(("http://", "https://")):
            from zpush.delivery.push_http import HttpSender

            return HttpSender(self._url, self._api_key)
        if is_kafka(self._url):
            from zpush.delivery.usual_push import kafka_sender

            return kafka_sender(self._queue, self._url)
        return QueueSender(open_producer(self._queue, self._url), lambda _: None)
