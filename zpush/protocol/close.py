"""Close codes: why a connection ended, and what the client does next.

Rules. A code is a promise about the client's next step, so one table holds both; the server sends no code that is not
in it, and every client obeys the same rows. A client that meets an unknown code, or none, comes back with backoff:
that is right for a cut line, and harmless for anything else.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Next(enum.Enum):
    """What the client does after the connection is gone."""

    AFTER_DELAY = "reconnects after the delay it was given, else at once"
    BACKOFF = "reconnects with backoff"
    LONG_BACKOFF = "reconnects with long backoff"
    TOKEN_FIRST = "gets a new token, then reconnects"
    NEVER = "does not reconnect"


@dataclass(frozen=True, slots=True)
class CloseCode:
    code: int
    meaning: str
    then: Next


GOING_AWAY_DONE = 1000
SHUTTING_DOWN = 1001
PROTOCOL_ERROR = 1002
UNEXPECTED_MESSAGE = 1003
NO_CODE = 1005  # never on the wire: the peer's close frame was empty
CUT = 1006  # never on the wire: the connection ended without a close frame
BAD_UTF8 = 1007
NOT_ACCEPTED = 1008
TOO_BIG = 1009
INTERNAL_ERROR = 1011
FULL = 1013
NOT_AUTHENTICATED = 4001
REPLACED = 4002
SLOW_CONSUMER = 4004
DISCONNECTED = 4005
TOKEN_EXPIRED = 4006
TOO_MANY_MESSAGES = 4008

# 1002 to 1009 say that the client did something it must not repeat. It would be dark for ever if it stayed away,
# and a herd of broken clients would be a load if it came back fast.
CLOSE_CODES = {
    row.code: row
    for row in (
        CloseCode(GOING_AWAY_DONE, "go-away grace over, or closed on request", Next.AFTER_DELAY),
        CloseCode(SHUTTING_DOWN, "server shutting down", Next.BACKOFF),
        CloseCode(PROTOCOL_ERROR, "protocol error", Next.LONG_BACKOFF),
        CloseCode(UNEXPECTED_MESSAGE, "unexpected message", Next.LONG_BACKOFF),
        CloseCode(BAD_UTF8, "text that is not UTF-8", Next.LONG_BACKOFF),
        CloseCode(NOT_ACCEPTED, "token or Origin no longer accepted", Next.TOKEN_FIRST),
        CloseCode(TOO_BIG, "message too big", Next.LONG_BACKOFF),
        CloseCode(INTERNAL_ERROR, "internal error", Next.BACKOFF),
        CloseCode(FULL, "server full, or nobody can verify a first message's token now", Next.LONG_BACKOFF),
        CloseCode(NOT_AUTHENTICATED, "not authenticated in time", Next.TOKEN_FIRST),
        CloseCode(REPLACED, "replaced by a newer connection of the same client", Next.NEVER),
        CloseCode(SLOW_CONSUMER, "slow consumer: unsent bytes passed the mark", Next.BACKOFF),
        CloseCode(DISCONNECTED, "disconnected by an operator", Next.NEVER),
        CloseCode(TOKEN_EXPIRED, "token expired", Next.TOKEN_FIRST),
        CloseCode(TOO_MANY_MESSAGES, "the client sent too many messages", Next.LONG_BACKOFF),
    )
}

EVENT_ID = "zpush:close:"  # no message's id begins with it (message.check_message_id)

_REFUSALS = {
    204: Next.NEVER,  # an event stream that was replaced
    401: Next.TOKEN_FIRST,
    408: Next.LONG_BACKOFF,  # a load balancer's, which may be in trouble itself
    425: Next.LONG_BACKOFF,
    429: Next.LONG_BACKOFF,  # too much from this address; or after Retry-After
    503: Next.LONG_BACKOFF,  # or after Retry-After
}


def after_close(code: int) -> Next:
    """What the client does after this close code; NO_CODE and CUT where there was none."""
    row = CLOSE_CODES.get(code)
    return row.then if row is not None else Next.BACKOFF


def reason_of(code: int) -> bytes:
    """What goes into a close frame beside the code; b"" for a code that is not in the table."""
    row = CLOSE_CODES.get(code)
    return row.meaning.encode() if row is not None else b""


def close_event_id(code: int) -> str:
    """The id of an event stream's close event. EventSource sends it back when it reconnects, as it always does by
    itself; so a server that never saw this client before knows that it was told to stay away."""
    return f"{EVENT_ID}{code}"


def code_of_event_id(event_id: str) -> int | None:
    """The code in a Last-Event-ID that close_event_id made; None for any other id."""
    digits = event_id.removeprefix(EVENT_ID)
    if digits == event_id or len(digits) != 4 or not (digits.isascii() and digits.isdigit()):
        return None
    return int(digits)


def after_refusal(status: int) -> Next:
    """What the client does after an HTTP answer that is not 101 or 200.

    4xx: the same request would be refused again. Other 5xx: a proxy's, whose server may be back in a moment.
    """
    return _REFUSALS.get(status, Next.NEVER if 400 <= status < 500 else Next.BACKOFF)
