"""Request heads for tests: a browser's, and the same with one thing changed."""

from __future__ import annotations

from collections.abc import Iterable

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 §1.3
PEER = "127.0.0.1:40000"
UPGRADE = {
    "Host": "push.example.com",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}


def head(
    target: str = "/ws",
    headers: dict[str, str] | Iterable[tuple[str, str]] = (),
    method: str = "GET",
    version: str = "HTTP/1.1",
) -> bytes:
    pairs = headers.items() if isinstance(headers, dict) else headers
    lines = [f"{method} {target} {version}", *(f"{name}: {value}" for name, value in pairs), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def upgrade(target: str = "/ws", **changes: str | None) -> bytes:
    """A valid upgrade with fields changed, added or (None) left out; _ in a name stands for -."""
    fields = dict(UPGRADE)
    for name, value in changes.items():
        key = next((k for k in fields if k.lower() == name.lower().replace("_", "-")), name.replace("_", "-"))
        if value is None:
            del fields[key]
        else:
            fields[key] = value
    return head(target, fields)
