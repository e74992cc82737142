"""From what the user writes to where the request goes.

Rules. ws and http are the same, as are wss and https; a URL without a path gets the transport's own. What cannot be
used is refused when the Client is made, not when it connects.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote, urlsplit

from zpush.protocol.message import check_id

_PORTS = {"ws": 80, "http": 80, "wss": 443, "https": 443}
_SECURE = ("wss", "https")


class Address(NamedTuple):
    """authority: the Host field's value. target: path and query."""

    host: str
    port: int
    secure: bool
    authority: str
    target: str


def parse_address(url: str, default_path: str, client_id: str | None, secure_token: bool = False) -> Address:
    """client_id: named in `?client=`, for servers in auth.mode dev. secure_token: ask for one. ValueError with what is
    wrong."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(f"a client's URL is ws://, wss://, http:// or https:// and a host, not {url[:80]!r}")
    if parts.username is not None:
        raise ValueError("a URL with a password in it: give the token as token=")
    try:
        port, host = parts.port or _PORTS[parts.scheme], parts.hostname.encode("idna").decode()
    except UnicodeError:
        raise ValueError(f"not a host name: {parts.hostname[:80]!r}") from None
    named = f"[{host}]" if ":" in host else host
    authority = named if port == _PORTS[parts.scheme] else f"{named}:{port}"
    target = quote(parts.path if parts.path not in ("", "/") else default_path, safe="/%:@!$&'()*+,;=~-._")
    query = [quote(parts.query, safe="=&%/?:@!$'()*+,;~-._")] if parts.query else []
    if client_id is not None:
        query.append("client=" + quote(check_id(client_id, "client"), safe=""))
    if secure_token:
        query.append("secure_token=1")
    return Address(host, port, parts.scheme in _SECURE, authority, target + ("?" + "&".join(query) if query else ""))
