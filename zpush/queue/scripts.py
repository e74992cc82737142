"""The Lua scripts of the Streams back end, as text. Each works on one key, so they run on a cluster too."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def _read(name: str) -> str:
    return (_HERE / f"{name}.lua").read_text()


PUBLISH = _read("publish")
CLAIM = _read("claim")
RENEW = _read("renew")
READ = _read("read")
FINISH = _read("finish")
RELEASE = _read("release")
JOIN = _read("join")
LAG = _read("lag")
APPEND = _read("append")
SCAN = _read("scan")
