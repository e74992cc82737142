"""The token: fixed, or asked for whenever a new one is needed.

Rules. A callback is asked once and its token used until the server does not want it any more, so that a herd that
reconnects does not also fall upon the service that signs. A token has no place in an exception's text.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable

TokenSource = str | Callable[[], str | None | Awaitable[str | None]] | None


class Tokens:
    def __init__(self, source: TokenSource) -> None:
        if isinstance(source, str):
            _check(source)
        self._source = source
        self._current = source if isinstance(source, str) else None

    @property
    def renewable(self) -> bool:
        return callable(self._source)

    async def get(self) -> str | None:
        """None: there is none to be had. What the callback raises is raised."""
        if self._current is None and callable(self._source):
            answer = self._source()
            token = await answer if inspect.isawaitable(answer) else answer
            if token is not None:
                _check(token)
            self._current = token
        return self._current

    def forget(self) -> None:
        """The next get() asks for a new one. Only where it is renewable."""
        if self.renewable:
            self._current = None


def _check(token: str) -> None:
    """It becomes a header field: nothing in it may end one."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("a token is printable ASCII without spaces")
