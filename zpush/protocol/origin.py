"""Origin (RFC 6454): whose web pages may connect.

Rules. Only browsers send Origin, and no page can forge it; whoever is not a browser may leave it out, so a missing
one is let through and authentication decides. With an allow-list, an origin must be on it. Without one, a page may
connect to the host it came from, whatever its port: the demo page and the API are on another port than the clients.

A pattern is an origin as browsers write it: `https://app.example.com`, with `:port` where it is not the scheme's own.
`https://*.example.com` is every name below example.com, not example.com itself. `*` is everybody.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from zpush.errors import ConfigError
from zpush.protocol.head import Refusal, Request

_PATTERN = re.compile(r"([a-z][a-z0-9+.-]*://)(\*\.)?([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_WEB = re.compile(rb"https?://(\[[0-9a-f:.]+\]|[^/:\[\]@?#]+)(?::[0-9]{1,5})?")
_LABELS = re.compile(rb"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_HERE = (b"same-origin", b"none")


class Origins:
    """connections.origins, compiled. An empty list means: the same host."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._exact: set[bytes] = set()
        self._below: list[tuple[bytes, bytes]] = []  # what stands before and after the star
        self._any = "*" in patterns
        self._listed = bool(patterns)
        for pattern in patterns:
            if pattern != "*":
                self._add(pattern.lower())

    def _add(self, pattern: str) -> None:
        match = _PATTERN.fullmatch(pattern)
        if match is None:
            raise ConfigError(
                f'connections.origins: "{pattern}" is not an origin; write "https://app.example.com", '
                '"https://*.example.com" or "*"'
            )
        scheme, star, host, port = match.groups(default="")
        if star:
            self._below.append((scheme.encode(), f".{host}{port}".encode()))
        else:
            self._exact.add(pattern.encode())

    def check(self, request: Request) -> bytes:
        """The Origin as it was sent, to be named in CORS headers, or b"". Refusal where it is foreign."""
        origin = request.headers.get(b"origin")
        if origin is None:
            return self._check_without(request)
        if not self.allows(origin, request.header(b"host")):
            raise Refusal(400, "origin", "pages of this Origin may not connect (setting: connections.origins)")
        return origin

    def allows(self, origin: bytes, host: bytes) -> bool:
        """host: the Host header's value."""
        origin = origin.lower()
        if self._any or origin in self._exact:
            return True
        if self._listed:
            return any(
                origin.startswith(before)
                and origin.endswith(after)
                and _LABELS.fullmatch(origin, len(before), len(origin) - len(after)) is not None
                for before, after in self._below
            )
        page = _WEB.fullmatch(origin)
        return page is not None and page[1] == host_name(host)

    @staticmethod
    def _check_without(request: Request) -> bytes:
        """A foreign page can ask without Origin (an image, a frame) and never read the answer, but it would replace
        the user's own connection. WebSocket, EventSource and fetch send Origin whenever they ask another origin."""
        site = request.headers.get(b"sec-fetch-site")
        if site is not None and site not in _HERE:
            raise Refusal(400, "origin", "a page of another site asks without Origin")
        return b""


def host_name(host: bytes) -> bytes:
    """A Host header's value without its port, in lower case."""
    name, colon, port = host.rpartition(b":")
    return (name if colon and (not port or port.isdigit()) else host).lower()
