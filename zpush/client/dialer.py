"""From no connection to the next one: when to try, with which token, and when not at all.

Rules. How the last connection ended, or why an attempt failed, decides by the table in protocol.close. Where that says
"never", or a new token is needed and there is none, Stopped is raised.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from zpush.client.events import Connection, Ended, Refused, Stopped
from zpush.client.pace import Pace
from zpush.client.state import State
from zpush.client.tokens import Tokens
from zpush.errors import Unavailable
from zpush.protocol.close import CLOSE_CODES, CUT, Next, after_close, after_refusal


class Dialer:
    """opens: makes one attempt with a token, or without. tell: hears of each wait and each attempt."""

    def __init__(
        self,
        opens: Callable[[str | None], Awaitable[Connection]],
        tokens: Tokens,
        pace: Pace,
        sleep: Callable[[float], Awaitable[None]],
        tell: Callable[[State, str], None],
    ) -> None:
        self._open = opens
        self._tokens = tokens
        self._pace = pace
        self._sleep = sleep
        self._tell = tell
        self.asked = False  # a request may have reached the server; whoever has a connection resets it

    async def dial(self, wait_s: float, why: str = "") -> Connection:
        """The next connection, after this wait and as many attempts as it takes. why: for people. Raises Stopped."""
        while True:
            if wait_s > 0:
                self._tell(State.WAITING, f"{wait_s:.1f} s: {why}" if why else f"{wait_s:.1f} s")
                await self._sleep(wait_s)
            self._tell(State.CONNECTING, "")
            try:
                token = await self._tokens.get()
                if token is None and self._tokens.renewable:
                    raise Stopped(0, "there is no token any more")
                self.asked = True
                return await self._open(token)
            except Refused as e:
                wait_s, why = self._wait_after_refusal(e), str(e)
            except (OSError, Unavailable) as e:  # TimeoutError is one
                wait_s, why = self._pace.failed(Next.BACKOFF), str(e) or type(e).__name__

    def wait_after(self, end: Ended, lived_s: float) -> float:
        """Seconds until the next attempt, after an end that was not handed over. Raises Stopped."""
        then = after_close(end.code)
        if then is Next.NEVER:
            raise stopped_by(end)
        if then is Next.TOKEN_FIRST:
            self._renew_token(stopped_by(end))
        return self._pace.ended(lived_s, then)

    def _wait_after_refusal(self, refused: Refused) -> float:
        then = after_refusal(refused.status)
        stopped = Stopped(refused.status, f"refused with {refused}")
        if then is Next.NEVER:
            raise stopped
        if then is Next.TOKEN_FIRST:
            self._renew_token(stopped)
        return self._pace.failed(then, refused.retry_after_s)

    def _renew_token(self, otherwise: Stopped) -> None:
        if not self._tokens.renewable:
            raise otherwise
        self._tokens.forget()


def stopped_by(end: Ended) -> Stopped:
    return Stopped(end.code, describe(end))


def describe(end: Ended) -> str:
    row = CLOSE_CODES.get(end.code)
    reason = end.reason or (row.meaning if row is not None else "")
    return reason if end.code == CUT else f"closed with {end.code}: {reason}"
