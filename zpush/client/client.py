"""zpush.Client: one client id, reachable for as long as the program likes, over as many connections as that takes.

Rules. Connections come one after the other. Each is read by one task (the pump), which hands messages to a bounded
inbox or to the caller's function and waits for them: a consumer that is slow is seen by the server as a slow consumer.
How a connection ended decides what comes next (the dialer); the caller hears of it through on_state, and as Stopped
where the client must not come back by itself.

Hand-over-hand. Asked to go, the client opens the next connection while the old one is still read; once it is open, the
old one is left and read to its end, and only then the new one. So nothing is missed and order holds. The server closes
a replaced connection with 4002: on the old one of a hand-over that is what was wanted.

A token that ends. Asked to go for that, the client first shows a newer token on the open connection. Where the server
does not say that it took it, the client goes, hand over hand.

Acks. A message is acknowledged once it was dealt with: when on_message has returned, or the caller asks for the next
one, or says so itself. Acks travel on the connection that is open by then.

What a caller provides (callbacks) may raise: the client ends with that exception.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl
import time
from collections.abc import Awaitable, Callable
from random import Random
from types import TracebackType
from typing import Any, Literal, Self

from zpush.client.address import parse_address
from zpush.client.dialer import Dialer, describe, stopped_by
from zpush.client.event_stream import open_event_stream
from zpush.client.events import Connection, Ended, GoAway, Received, SecureToken, Stopped
from zpush.client.inbox import Inbox
from zpush.client.limits import Limits
from zpush.client.pace import Pace
from zpush.client.pump import Pump
from zpush.client.seen import Seen
from zpush.client.state import State
from zpush.client.tokens import Tokens, TokenSource
from zpush.client.websocket import open_websocket
from zpush.errors import Unavailable
from zpush.protocol.close import REPLACED, Next, after_close

RENEW_S = 1.0  # for the server's word on a newer token; a hand-over still has to fit into the grace
_TOKEN_ENDS = "token_expires"  # reasons of a go-away
_TOKEN_STAYS_GOOD = ("max_age", "shutdown")


class Client:
    """`async with Client(url, token=…) as client:`, then `async for message in client:`.

    url: ws:// or http:// (wss://, https://), host and port; the path is the transport's where none is given.
    client_id: for servers in auth.mode dev. token: a string, or a function (async or not) that is asked for one
    whenever a new one is needed; None from it stops the client, OSError or Unavailable means later.
    ack: tell the server of each message that was dealt with (zpush.v1); for more control, call ack(message) instead.
    on_message: called with each message in order, instead of iterating; the next one waits for it. on_secure_token:
    called with each connection's secure token before its first message. on_state: called with the new state and a text
    for people. rng, sleep, clock: for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        client_id: str | None = None,
        token: TokenSource = None,
        transport: Literal["websocket", "sse"] = "websocket",
        protocol: Literal["zpush.v1", "zpush.raw"] = "zpush.v1",
        ack: bool = False,
        on_message: Callable[[Received], Awaitable[None] | None] | None = None,
        on_secure_token: Callable[[str], Awaitable[None] | None] | None = None,
        on_state: Callable[[State, str], None] | None = None,
        limits: Limits | None = None,
        ssl_context: ssl.SSLContext | None = None,
        rng: Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises ValueError (MalformedMessage for the client id) for what cannot be used."""
        if transport not in ("websocket", "sse") or protocol not in ("zpush.v1", "zpush.raw"):
            raise ValueError("transport is websocket or sse, protocol zpush.v1 or zpush.raw")
        path = "/sse" if transport == "sse" else "/ws"
        self._address = parse_address(url, path, client_id, secure_token=on_secure_token is not None)
        self._tokens = Tokens(token)
        self._sse = transport == "sse"
        self._protocol = protocol
        self._ack = ack
        self._on_message = on_message
        self._on_secure_token = on_secure_token
        self._on_state = on_state
        self._limits = limits or Limits()
        self._ssl = (ssl_context or ssl.create_default_context()) if self._address.secure else None
        self._pace = Pace(rng or Random())
        self._dialer = Dialer(self._open, self._tokens, self._pace, sleep, self._tell_if_apart)
        self._sleep = sleep
        self._clock = clock
        self._inbox = Inbox(self._limits.queued)
        self._seen = Seen(self._limits.remembered)
        self._taken: Received | None = None  # by the caller's iteration, and not acknowledged yet
        self._connection: Connection | None = None  # the one that hears acks
        self._secure_token = ""
        self._state = State.CONNECTING
        self._opened = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # ---- for the caller

    @property
    def state(self) -> State:
        """Now; on_state is told each change."""
        return self._state

    @property
    def secure_token(self) -> str:
        """Of the connection that is read, where on_secure_token asks for one; "" before the first one came."""
        return self._secure_token

    async def start(self) -> None:
        """Begins to connect, and returns at once; `async with` does it."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Closes the connection; messages that were not taken are gone. Raises what a callback raised."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        error = None if self._task.cancelled() else self._task.exception()
        if error is not None and not isinstance(error, Stopped):
            raise error

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def wait_open(self) -> None:
        """Returns once the client is reachable for the first time. Raises Stopped where it never will be."""
        await self.start()
        assert self._task is not None
        opened = asyncio.create_task(self._opened.wait())
        either: set[asyncio.Task[Any]] = {opened, self._task}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        opened.cancel()
        if not self._opened.is_set():
            await self.wait_stopped()
            raise Stopped(0, "the client was closed before it was open")

    async def wait_stopped(self) -> None:
        """Returns after aclose(). Raises Stopped, or what a callback raised."""
        assert self._task is not None, "the client was not started"
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.result()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Received:
        if self._ack and self._taken is not None:
            self.ack(self._taken)  # who asks for the next one has dealt with it
        self._taken = None
        message = await self._inbox.take()
        if message is None:
            raise StopAsyncIteration
        self._taken = message
        return message

    def ack(self, message: Received) -> None:
        """Tells the server that this message was dealt with, where a connection that can say so is open (zpush.v1)."""
        self._seen.acked(message.id)
        if self._connection is not None:
            self._connection.ack(message.id)

    # ---- a client's life

    async def _run(self) -> None:
        reason: BaseException | None = None
        try:
            connection = await self._dialer.dial(0.0)
            while True:
                connection = await self._live(connection)
        except Exception as e:
            reason = e  # whoever takes messages hears it too
            raise
        finally:
            try:
                self._tell(State.STOPPED, str(reason) if isinstance(reason, Stopped) else "closed")
            finally:
                await self._inbox.close(reason)

    async def _live(self, connection: Connection) -> Connection:
        """Reads a connection to its end; answers the next one."""
        self._connection, self._dialer.asked = connection, False
        self._tell(State.OPEN, "")
        self._opened.set()
        since_s = self._clock()
        pump = Pump(connection, self._take)
        try:
            while True:
                go_away = await pump.asked_to_go()
                lived_s = self._clock() - since_s
                if go_away is None or pump.task.done():
                    end = await pump.task
                    wait_s = self._wait_after(end, go_away, lived_s)
                    break
                delay_s = self._pace.going(lived_s, go_away.delay_s)
                if go_away.reason not in _TOKEN_STAYS_GOOD:
                    self._tokens.forget()
                renews = go_away.reason == _TOKEN_ENDS and self._tokens.renewable
                if renews and (await self._renew(connection, delay_s, pump) or pump.task.done()):
                    continue
                return await self._hand_over(connection, go_away.reason, 0.0 if renews else delay_s, pump)
        finally:
            if self._connection is connection:
                self._connection = None
            await pump.stop()
            await connection.close()
        return await self._dialer.dial(wait_s, describe(end))

    def _wait_after(self, end: Ended, go_away: GoAway | None, lived_s: float) -> float:
        wait_s = self._dialer.wait_after(end, lived_s)
        if go_away is not None and after_close(end.code) is Next.AFTER_DELAY:  # they came as one
            return max(wait_s, self._pace.going(lived_s, go_away.delay_s))
        return wait_s

    async def _take(self, told: Received | SecureToken) -> None:
        if isinstance(told, SecureToken):
            if self._on_secure_token is not None:
                self._secure_token = told.token
                await _call(self._on_secure_token, told.token)
        elif not self._seen.is_new(told.id):
            if self._seen.was_acked(told.id):
                self.ack(told)
        elif self._on_message is None:
            await self._inbox.put(told)
        else:
            await _call(self._on_message, told)
            if self._ack:
                self.ack(told)

    # ---- from one token, and one connection, to the next

    async def _renew(self, connection: Connection, wait_s: float, pump: Pump) -> bool:
        """Shows a newer token. False: it was not taken, or the connection has ended."""
        showing = asyncio.create_task(self._show_newer_token(connection, wait_s, pump))
        try:
            await asyncio.wait({showing, pump.task}, return_when=asyncio.FIRST_COMPLETED)
            return showing.done() and showing.result()
        finally:
            await _cancel(showing)

    async def _show_newer_token(self, connection: Connection, wait_s: float, pump: Pump) -> bool:
        await self._sleep(wait_s)
        try:
            token = await self._tokens.get()
        except (OSError, Unavailable):
            return False  # the hand-over goes on asking
        if token is None:
            return False
        pump.renewed.clear()
        connection.show(token)
        try:
            async with asyncio.timeout(RENEW_S):
                return await pump.renewed.wait()
        except TimeoutError:
            return False

    async def _hand_over(self, old: Connection, reason: str, wait_s: float, pump: Pump) -> Connection:
        self._tell(State.HANDING_OVER, reason)
        dial = asyncio.create_task(self._dialer.dial(wait_s))
        try:
            await asyncio.wait({pump.task, dial}, return_when=asyncio.FIRST_COMPLETED)
            if dial.done() and dial.exception() is None:
                self._connection = dial.result()  # the old one hears nothing any more
                old.leave(self._limits.handover_s)
            end = await pump.task
            self._on_old_end(end)
            if not dial.done():
                self._connection = None
                await old.close()
                if end.code != REPLACED:  # by the new one, whose own answer is on its way
                    self._tell(State.CONNECTING, "the old connection has ended before the new one was open")
            return await dial
        except BaseException:
            await _give_up(dial)
            raise

    def _on_old_end(self, end: Ended) -> None:
        then = after_close(end.code)
        if then is Next.NEVER and not (end.code == REPLACED and self._dialer.asked):
            raise stopped_by(end)
        if then is Next.TOKEN_FIRST:
            self._tokens.forget()

    async def _open(self, token: str | None) -> Connection:
        if self._sse:
            return await open_event_stream(self._address, token, self._seen.last, self._limits, self._ssl)
        asks = self._on_secure_token is not None
        return await open_websocket(self._address, token, self._protocol, self._limits, self._ssl, asks)

    # ---- states

    def _tell_if_apart(self, state: State, detail: str) -> None:
        """While an old connection is still read, an attempt is no change of state."""
        if self._connection is None:
            self._tell(state, detail)

    def _tell(self, state: State, detail: str) -> None:
        self._state = state
        if self._on_state is not None:
            self._on_state(state, detail)


async def _call(function: Callable[[Any], Awaitable[None] | None], value: object) -> None:
    answer = function(value)
    if inspect.isawaitable(answer):
        await answer


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})


async def _give_up(dial: asyncio.Task[Connection]) -> None:
    """Its connection too, if it had just been opened."""
    await _cancel(dial)
    if not dial.cancelled() and dial.exception() is None:
        await dial.result().close()
