"""Durations, sizes and addresses as people write them.

Rules. Pure functions; a ValueError means that the text is none. Inside zpush a duration is a float of
seconds (names end in `_s`) and a size an int of bytes (`_bytes`); only here do they have other spellings.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_AMOUNT = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s?([A-Za-z]*)", re.ASCII)


def parse_duration(value: object) -> float:
    """Seconds from "30m", "1.5s", "250ms", or a number of seconds (also as text)."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value) or value < 0:
            raise ValueError("not a duration")
        return float(value)
    return _amount(value, _SECONDS, "s")


def parse_size(value: object) -> int:
    """Bytes from "64KiB", "1MiB", "512B", or a whole number (also as text)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    size = _amount(value, _BYTES, "B")
    if size != int(size):
        raise ValueError("not a whole number of bytes")
    return int(size)


def _amount(value: object, units: Mapping[str, float], without: str) -> float:
    match = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    unit = units.get(match[2] or without) if match else None
    if match is None or unit is None:
        raise ValueError("no amount with a unit")
    return float(match[1]) * unit


def format_duration(seconds: float) -> str:
    """The shortest spelling that parses back to the same value."""
    for unit in ("d", "h", "m", "s", "ms"):
        amount = seconds / _SECONDS[unit]
        if amount >= 1 and amount == int(amount):
            return f"{int(amount)}{unit}"
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def format_size(size: int) -> str:
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return str(size)


def split_address(value: str) -> tuple[str, int]:
    """("127.0.0.1", 8080) from "127.0.0.1:8080", ("::1", 8080) from "[::1]:8080"."""
    host, separator, port = value.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        ipaddress.IPv6Address(host)
    elif ":" in host:
        raise ValueError("an IPv6 address stands in brackets")
    if not separator or not host or not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > 65535:
        raise ValueError("not host:port")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host. A name other than localhost may mean anything: no."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_unspecified(host: str) -> bool:
    """0.0.0.0 or ::, which others cannot connect to."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
