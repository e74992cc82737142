"""auth.mode = "python:package.module:function": a function of the user's own decides.

    def function(request: Request) -> Identity | Awaitable[Identity] | None

None is 401, as is Unauthorized; Refusal answers what it says; errors.Unavailable is 503, as is no answer within
auth.hook_timeout. Rules. Whatever else goes wrong in it is our 500, with the traceback in the log (at most one every
ten seconds): nobody is let in and the worker goes on. What it returns is checked like any other identity.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import math
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from zpush import policy
from zpush.auth.base import Authenticator, Identity
from zpush.errors import ConfigError, MalformedMessage, Unauthorized, Unavailable
from zpush.log import SparseLog
from zpush.protocol.handshake import Refusal, Request, unavailable
from zpush.protocol.message import check_id

PREFIX = "python:"
_log = logging.getLogger("zpush.auth")

Function = Callable[["Request"], "Identity | Awaitable[Identity | None] | None"]


def load(mode: str) -> Function:
    """mode: "python:package.module:function". Raises ConfigError."""
    module_name, _, name = mode.removeprefix(PREFIX).partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as e:  # the user's code runs here, and its error is the user's to mend
        raise ConfigError(f"auth.mode: cannot import {module_name}: {type(e).__name__}: {e}") from e
    found = getattr(found, name, None)
    if not callable(found):
        raise ConfigError(f"auth.mode: {module_name} has no function {name}")
    function: Function = found
    return function


class PluginAuthenticator(Authenticator):
    def __init__(self, function: Function, timeout_s: float) -> None:
        self._function = function
        self._timeout_s = timeout_s
        self._rng = random.Random()
        self._sparse = SparseLog(_log)

    def authenticate(self, request: Request) -> Identity | Awaitable[Identity]:
        try:
            answer = self._function(request)
            return self._wait(answer) if inspect.isawaitable(answer) else _checked(answer)
        except Exception as e:  # noqa: BLE001  see _answer_to
            raise self._answer_to(e) from None

    async def _wait(self, answer: Awaitable[Identity | None]) -> Identity:
        try:
            async with asyncio.timeout(self._timeout_s):
                return _checked(await answer)
        except Exception as e:  # noqa: BLE001  see _answer_to
            raise self._answer_to(e) from None

    def _answer_to(self, error: Exception) -> Exception:
        """What the front door understands. Any error there is comes from code that is not ours: none may pass."""
        if isinstance(error, (Unauthorized, Refusal)):
            return error
        if isinstance(error, TimeoutError):
            self._sparse.warning("the function of auth.mode did not answer in time", timeout_s=self._timeout_s)
        if isinstance(error, (Unavailable, TimeoutError)):
            seconds = policy.retry_after_s(self._rng, 1, 10)
            return unavailable("unavailable", "authentication is away for the moment", seconds)
        self._sparse.warning("the function of auth.mode failed", error=type(error).__name__, exc_info=True)
        return Refusal(500, "failed", "authentication failed; the server's log says why")


def _checked(answer: object) -> Identity:
    if answer is None:
        raise Unauthorized("the function of auth.mode says no")
    if not isinstance(answer, Identity):
        raise TypeError(f"the function of auth.mode returned {type(answer).__name__}, not Identity or None")
    try:
        checked = msgspec.convert(msgspec.structs.asdict(answer), Identity)  # the types: nobody else has looked at them
        check_id(checked.client_id, "client_id")
        if checked.user_id:
            check_id(checked.user_id, "user_id")
    except MalformedMessage as e:
        raise ValueError(e.reason) from None
    if checked.expires_s is not None and not math.isfinite(checked.expires_s):
        raise ValueError("expires_s is not a time")
    return checked
