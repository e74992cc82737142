"""An HTTP answer that is no connection, as a Refused.

Rules. Its status decides what the client does next; its body is for people and may be anything: a bounded part is
read for a bounded time, and only printable text of it is shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from zpush.client.events import Refused

MAX_BODY_BYTES = 4096
BODY_S = 1.0
MAX_RETRY_AFTER_S = 600.0
_SHOWN = 200


def refused(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Refused:
    fields = {bytes(name).lower(): bytes(value) for name, value in headers}
    return Refused(status, _reason(body), _retry_after_s(fields.get(b"retry-after", b"")))


def _reason(body: bytes) -> str:
    """The API's `{"error":{"message":…}}`, else the first line."""
    try:
        text = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        text = body.decode(errors="replace").strip().partition("\n")[0]
    return printable(text)


def printable(text: str) -> str:
    """What may be shown of a text that comes from elsewhere."""
    return "".join(c for c in text[:_SHOWN] if c.isprintable())


def _retry_after_s(value: bytes) -> float | None:
    """Seconds; None for a date too, which would need two clocks that agree."""
    return min(float(value), MAX_RETRY_AFTER_S) if value.isdigit() and len(value) <= 9 else None
