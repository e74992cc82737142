"""The pushes of one event loop: in turn from their calls on, counted, told, and waited for.

Rules. A call has its turn when it is made, whether it is awaited or not. Until the sender has started there is a line;
who stands in it hands over before anybody who comes later. A usual push that comes alone has a short way, where the
sender has one: a call of C, which settles it. Whatever is not usual takes the long way, in the same turn.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from threading import get_ident
from typing import Any, Protocol, TypedDict, TypeVar, cast

import msgspec

from zpush.delivery.push import Push
from zpush.delivery.push_queue import Singles
from zpush.errors import MalformedMessage
from zpush.protocol.message import Outcome, Priority

Outcomes = Outcome | dict[str, Outcome] | dict[Outcome, int]
Result = str | Outcomes
OnResult = Callable[[str, Result | Exception], None]
CLOSE_S = 10.0
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


class Sender(Protocol[_P]):
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


class PushesOfLoop:
    """The pushes of one event loop."""

    def __init__(self, sender: Sender[Any], on_result: OnResult | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = get_ident()
        self.prepare = sender.prepare
        self._taken = 0
        self._refused = 0
        self._sender = sender
        self._singles = sender.singles if on_result is None else None
        self._on_result = on_result
        self._started: asyncio.Task[None] | None = None
        self._is_started = False
        self._obstacle: BaseException | None = None  # that keeps it from starting
        self._line: list[tuple[Sequence[Any], asyncio.Future[Awaitable[list[Any]]]]] = []  # until it has started
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

    def start(self) -> asyncio.Task[None]:
        if self._started is None:
            self._started = self.loop.create_task(self._sender.start())
            self._started.add_done_callback(self._let_in)
        return self._started

    def _let_in(self, started: asyncio.Task[None]) -> None:
        """Those in line, in their order, before anybody who comes now."""
        if not started.cancelled():
            self._obstacle = started.exception()
            self._is_started = self._obstacle is None
        for pushes, place in self._line:
            if place.done():
                continue  # it was given up
            if started.cancelled():
                place.cancel()
            elif self._obstacle is None:
                place.set_result(asyncio.ensure_future(self._sender.send(pushes)))  # also for who has given it up
            else:
                place.set_exception(self._obstacle)
        self._line.clear()

    def begin_usual(self, fields: Fields) -> asyncio.Future[str] | None:
        """The short way, where there is one and nobody stands in line; None where not, and nothing has happened."""
        if self._singles is None or not self._is_started:
            return None
        return self._singles.begin(cast("dict[str, Any]", fields))

    def begin(self, direct: bool, fields: Fields) -> asyncio.Future[Any]:
        """A single push, which has its turn from now on: its result. MalformedMessage."""
        usual = None if direct else self.begin_usual(fields)
        if usual is not None:
            return usual
        pushes = [self.prepare(Push(direct=direct, **fields))]
        sent = asyncio.ensure_future(self._hand_over(pushes))
        self._begun()
        done = self.loop.create_future()
        sent.add_done_callback(partial(self._end, pushes, done))
        return done

    def _end(self, pushes: Sequence[Any], done: asyncio.Future[Any], sent: asyncio.Future[list[Any]]) -> None:
        """Who awaits the push hears of it before who flushes."""
        try:
            if sent.cancelled():  # at the loop's end
                done.cancel()
            elif (obstacle := sent.exception()) is not None:
                _settle(done, obstacle)
            else:
                results = sent.result()
                _settle(done, pushes[0].id if results[0] is None else results[0])
                self._judge(pushes, results)
        finally:
            self._ended()

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
            results = await self._hand_over(pushes)
        finally:
            self._ended()
        self._judge(pushes, results)
        return results

    def _hand_over(self, pushes: Sequence[Any]) -> Awaitable[list[Any]]:
        """At once, or in line."""
        if self._is_started:
            return self._sender.send(pushes)
        place: asyncio.Future[Awaitable[list[Any]]] = self.loop.create_future()
        if self._obstacle is not None:  # every push is told, and not just the first
            place.set_exception(self._obstacle)
        else:
            self._line.append((pushes, place))
            self.start()
        return _in_turn(place)

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


async def _in_turn(place: asyncio.Future[Awaitable[list[Any]]]) -> list[Any]:
    return await (await place)


def _settle(done: asyncio.Future[Any], result: Any) -> None:
    if done.done():
        return  # given up by who began it
    if isinstance(result, BaseException):
        done.set_exception(result)
    else:
        done.set_result(result)


def result_of(results: list[Any]) -> Result:
    """Of a single push."""
    result: Result | Exception = results[0]
    if isinstance(result, Exception):
        raise result
    return result
