"""Heads that were read before: a sender's is the same, byte for byte, with every push.

Rules. Only what is one whole request, head and body and nothing else, is learned and found again, and only from callers
who may call: others have no room here. Equal bytes are an equal head: what the parser refused was never learned, and
what it found is not looked for twice. Who calls, and whether he may, is asked with every request all the same. A head
whose body is not simply its last Content-Length bytes, and one that ends its connection, is left to the parser.
"""

from __future__ import annotations

import msgspec

from zpush.server.http_message import HttpRequest

MAX_HEADS = 1024
MAX_BYTES = 1024  # of each
_END = b"\r\n\r\n"
_UNUSUAL = (b"expect", b"upgrade")


class KnownHeads:
    """Of all connections of a server."""

    def __init__(self) -> None:
        self._known: dict[bytes, HttpRequest] = {}

    def request(self, data: bytes) -> HttpRequest | None:
        """The request that these bytes are, if its head is known."""
        head, _, body = data.partition(_END)
        known = self._known.get(head)
        if known is None or len(body) != known.length:
            return None
        return msgspec.structs.replace(known, body=body)

    def learn(self, data: bytes, request: HttpRequest) -> None:
        """data: from which the parser made this request alone."""
        head, _, body = data.partition(_END)
        if len(head) > MAX_BYTES or len(body) != request.length or not request.keep_alive:
            return
        if any(name in request.headers for name in _UNUSUAL):
            return
        if len(self._known) >= MAX_HEADS:
            self._known.clear()  # more than any cell's senders have: what is in use is soon back
        self._known[head] = msgspec.structs.replace(request, body=b"")
