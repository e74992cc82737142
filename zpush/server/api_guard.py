"""Who may call the API.

Rules. With keys: a call presents one as `Authorization: Bearer`; all keys are compared, in constant
time, so that neither a key nor which one matched can be timed. Without keys the API is on loopback only,
where any web page open on the same machine can reach it, also under a name of its own (DNS rebinding).
So there the Host must be a loopback name or address, an Origin must be this very server's (the demo page
is), and a POST must say that it brings JSON, which no page of another origin can without being asked by
us first (CORS preflight; OPTIONS is answered 405). Zuul's `/push` needs its own header: the same protection.

A key may be for one purpose only (config/secrets.py). Several keys may be valid at once, so that they can be rotated.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

from zpush.config import scoped
from zpush.config.units import is_loopback
from zpush.server.http_message import HttpRequest, HttpResponse, error_response

_SCHEME = b"bearer "
_HOST = re.compile(r"(?:\[([^]]+)\]|([^][:]+))(?::[0-9]*)?")  # RFC 9110 §7.2
_SEND, _LOOK, _OPERATE = frozenset({"push"}), frozenset({"read"}), frozenset({"operate"})
_SEND_OR_LOOK = _SEND | _LOOK


class Guard:
    """bind_host: where the API listens. Only a loopback one may be without keys."""

    def __init__(self, keys: Sequence[str], bind_host: str) -> None:
        if not keys and not is_loopback(bind_host):
            raise ValueError("an API that others can reach needs a key")
        # Digests: of equal length whatever the keys', so that comparing takes the same time for any guess.
        self._digests = [(sha256(key.encode()).digest(), allowed) for key, allowed in map(scoped, keys)]
        self.keyless = not keys

    def refuse(self, request: HttpRequest) -> HttpResponse | None:
        """None: the call may go on."""
        return self._foreign(request) if self.keyless else self._unknown(request)

    def _unknown(self, request: HttpRequest) -> HttpResponse | None:
        presented = request.headers.get(b"authorization", b"")
        allowed: frozenset[str] = frozenset()
        if presented[: len(_SCHEME)].lower() == _SCHEME:
            digest = sha256(presented[len(_SCHEME) :].strip()).digest()
            for each, purposes in self._digests:
                if hmac.compare_digest(digest, each):
                    allowed |= purposes
        if not allowed.isdisjoint(_purposes(request)):
            return None
        if allowed:
            return error_response(403, "forbidden", f"this key may only {' and '.join(sorted(allowed))}")
        return error_response(
            401, "unauthorized", "send a key: Authorization: Bearer <key>", extra=b"WWW-Authenticate: Bearer\r\n"
        )

    def _foreign(self, request: HttpRequest) -> HttpResponse | None:
        host = request.headers.get(b"host", b"")
        if not _is_local(host):
            return error_response(403, "foreign_host", "without api.keys, Host must name this machine's loopback")
        origin = request.headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2].lower() != host.lower():
            return error_response(403, "foreign_origin", "without api.keys, pages of other origins may not call")
        return None


def _purposes(request: HttpRequest) -> frozenset[str]:
    """Of the keys that this call is for. Zuul's senders ask with the key that they push with who is there."""
    if request.path == "/v1/push":
        return _SEND
    if request.path == "/push":
        return _SEND if request.method == "POST" else _SEND_OR_LOOK
    return _OPERATE if request.method == "DELETE" else _LOOK


@lru_cache(maxsize=256)  # senders say the same few
def _is_local(host: bytes) -> bool:
    """Whether Host, with or without a port, is a loopback name or address."""
    match = _HOST.fullmatch(host.decode("latin-1").lower())
    return match is not None and is_loopback(match[1] or match[2])
