"""One request head: bytes in, a Request out, or a Refusal.

Rules. zpush/_fast/head.pyx splits the head and refuses whatever two servers could read in two ways. Here stands what
only a server of this kind cares for: whom the request is for, and that no body follows it.

Header names are lower case, values are bytes without the spaces around them. A field that is a list and comes
several times is one value, joined by commas (RFC 9110 §5.3).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import unquote_to_bytes

import msgspec

from zpush._fast import head as head_parser
from zpush.errors import ZpushError

_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~%!$&'()*+;=-]{1,255})(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(r"https?://([^/]*)(/.*)?", re.IGNORECASE)
MAX_LENGTH_DIGITS = 19  # of a Content-Length: below 2^64


class Refusal(ZpushError):
    """A request that is answered without an open connection. The reason is sent to the client.

    status: HTTP status. result: one of scoreboard.HANDSHAKE_RESULTS, counted. headers: fields of the answer.
    """

    def __init__(self, status: int, result: str, reason: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.result = result
        self.reason = reason
        self.headers = headers


def malformed(reason: str) -> Refusal:
    return Refusal(400, "malformed", reason)


class Request(msgspec.Struct, frozen=True):
    """path is without the query, as sent (never decoded). http11: HTTP/1.1, else 1.0. peer: "host:port"."""

    method: str
    path: str
    query: bytes
    http11: bool
    headers: dict[bytes, bytes]
    peer: str

    def header(self, name: bytes) -> bytes:
        """The value of a field by its lower-case name, or b""."""
        return self.headers.get(name, b"")

    def lists(self, name: bytes, element: bytes) -> bool:
        """Whether a list field has this element, which is in lower case; in the field either case will do."""
        value = self.headers.get(name, b"").lower()
        return value == element or element in [each.strip(b" \t") for each in value.split(b",")]

    def param(self, name: str) -> str | None:
        """A query parameter, percent-decoded; + is a space. Refusal where it comes twice or is not UTF-8."""
        try:
            value = head_parser.parameter(self.query, name.encode())
            return None if value is None else _decoded(value)
        except UnicodeDecodeError:
            raise malformed(f"{name} in the query is not valid UTF-8") from None
        except ValueError as e:
            raise malformed(str(e)) from None

    @property
    def peer_host(self) -> str:
        """The peer's address without port and brackets."""
        return self.peer.rpartition(":")[0].strip("[]")


def parse(head: bytes, peer: str) -> Request:
    """head: a whole request head, its blank line included, and nothing after it. Raises Refusal and nothing else."""
    try:
        method, path, query, http11, headers = head_parser.parse(head)
    except ValueError as e:
        raise malformed(str(e)) from None
    _check_host(headers.get(b"host"), http11)
    if not path.startswith("/") and (absolute := _ABSOLUTE.fullmatch(path)):
        path = absolute[2] or "/"
        headers[b"host"] = absolute[1].encode()  # replaces what Host says (RFC 9112 §3.2.2)
        _check_host(headers[b"host"], True)
    if b"content-length" in headers:
        _check_length(headers)
    return Request(method, path, query, http11, headers, peer)


def _check_host(host: bytes | None, required: bool) -> None:
    if host is None:
        if required:
            raise malformed("no Host header")
    elif not _is_host(host):
        raise malformed("the Host header is not a host name or address")


@lru_cache(maxsize=64)  # the same few come with every request
def _is_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None


def _check_length(headers: dict[bytes, bytes]) -> None:
    """No request here has a body; but a length that another server may read differently is malformed all the same."""
    length = headers[b"content-length"]
    if not length.isdigit() or len(length) > MAX_LENGTH_DIGITS or b"transfer-encoding" in headers:
        raise malformed("Content-Length is not a number, or stands beside Transfer-Encoding")


def _decoded(value: bytes) -> str:
    if value.find(b"%") >= 0 or value.find(b"+") >= 0:  # `in` takes ten times as long: it tries bytes as a number first
        value = unquote_to_bytes(value.replace(b"+", b" "))
    return value.decode()
