"""The kinds of values a setting can have: how each is read, bounded, described and written.

Rules. `parse` takes what TOML gives and returns the value that the code works with, or raises
ValueError; `from_text` turns an environment variable or a `--set` argument into what TOML would have
given. `allowed` is one phrase for error lines and the documentation. `to_toml` writes a value that
`parse` reads back to itself.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
import tomllib
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from zpush.config import units

MAX_TEXT = 4096
MAX_PASSED_ON = 65536  # a chain of certificates


class Kind(Protocol):
    @property
    def allowed(self) -> str: ...

    def parse(self, value: object) -> Any: ...

    def from_text(self, text: str) -> object: ...

    def to_toml(self, value: Any) -> str: ...


class _Plain:
    """Kinds whose TOML spelling is a string."""

    def from_text(self, text: str) -> object:
        return text

    def to_toml(self, value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Text(_Plain):
    """A string without control characters; pattern: what it must match as a whole."""

    allowed: str
    pattern: str = ".*"

    def parse(self, value: object) -> str:
        if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
            raise ValueError("not a printable string")
        if not re.fullmatch(self.pattern, value, re.ASCII if self.pattern != ".*" else 0):
            raise ValueError("does not match")
        return value


@dataclass(frozen=True)
class Choice(_Plain):
    options: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return " or ".join(f'"{o}"' for o in self.options)

    def parse(self, value: object) -> str:
        if value not in self.options:
            raise ValueError("not a choice")
        return str(value)


@dataclass(frozen=True)
class Address(_Plain):
    """host:port to listen on. Port 0: any free one. optional: or "", for none."""

    optional: bool = False

    @property
    def allowed(self) -> str:
        return 'host:port, such as "127.0.0.1:8080" or "[::]:8080"' + (", or empty" if self.optional else "")

    def parse(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError("not a string")
        if self.optional and not value:
            return value
        units.split_address(value)
        return value


@dataclass(frozen=True)
class Network(_Plain):
    """An IP network, or one address. Written as it was, so that two spellings of one network are two values."""

    allowed: str = 'an IP network without host bits or an IP address, such as "10.0.0.0/8" or "2001:db8::1"'

    def parse(self, value: object) -> str:
        if not isinstance(value, str) or "%" in value:  # a zone means nothing to another machine
            raise ValueError("not a network")
        ipaddress.ip_network(value)
        return value


@dataclass(frozen=True)
class Url(_Plain):
    """ "embedded", or a URL of one of the schemes."""

    schemes: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return '"embedded" or a URL that starts with ' + ", ".join(f"{s}://" for s in self.schemes)

    def parse(self, value: object) -> str:
        if value == "embedded":
            return "embedded"
        if not isinstance(value, str) or not value.isprintable() or len(value) > MAX_TEXT:
            raise ValueError("not a printable string")
        parts = urlsplit(value)
        if parts.scheme not in self.schemes or not (parts.netloc or parts.path):
            raise ValueError("not such a URL")
        return value


@dataclass(frozen=True)
class Integer:
    low: int
    high: int

    @property
    def allowed(self) -> str:
        return f"a whole number from {self.low} to {self.high}"

    def parse(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise ValueError("not a whole number in bounds")
        return value

    def from_text(self, text: str) -> object:
        if not re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
            raise ValueError("not a whole number")
        return int(text)

    def to_toml(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True)
class Size(_Plain):
    low: int
    high: int

    @property
    def allowed(self) -> str:
        return f'a size from {units.format_size(self.low)} to {units.format_size(self.high)}, such as 65536 or "64KiB"'

    def parse(self, value: object) -> int:
        size = units.parse_size(value)
        if not self.low <= size <= self.high:
            raise ValueError("out of bounds")
        return size

    def to_toml(self, value: Any) -> str:
        text = units.format_size(value)
        return text if text.isdigit() else json.dumps(text)


@dataclass(frozen=True)
class Duration(_Plain):
    low_s: float
    high_s: float

    @property
    def allowed(self) -> str:
        low, high = units.format_duration(self.low_s), units.format_duration(self.high_s)
        return f'a duration from {low} to {high}, such as "30m", "1.5s", "250ms" or a number of seconds'

    def parse(self, value: object) -> float:
        seconds = units.parse_duration(value)
        if not self.low_s <= seconds <= self.high_s:
            raise ValueError("out of bounds")
        return seconds

    def to_toml(self, value: Any) -> str:
        return json.dumps(units.format_duration(value))


@dataclass(frozen=True)
class Ratio:
    low: float
    high: float

    @property
    def allowed(self) -> str:
        return f"a number from {self.low} to {self.high}"

    def parse(self, value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise ValueError("not a number")
        if not self.low <= value <= self.high:
            raise ValueError("out of bounds")
        return float(value)

    def from_text(self, text: str) -> object:
        return float(text)

    def to_toml(self, value: Any) -> str:
        return repr(value)


@dataclass(frozen=True)
class Flag:
    allowed: str = "true or false"

    def parse(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError("not a flag")
        return value

    def from_text(self, text: str) -> object:
        return {"true": True, "false": False}.get(text, text)

    def to_toml(self, value: Any) -> str:
        return "true" if value else "false"


@dataclass(frozen=True)
class Many:
    """A list without doubles, held as a tuple. As text: a TOML array, or items with commas between."""

    item: Kind
    least: int = 0
    most: int = 1000

    @property
    def allowed(self) -> str:
        return f"a list of {self.least} to {self.most} different values, each {self.item.allowed}"

    def parse(self, value: object) -> tuple[Any, ...]:
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            raise ValueError("not a list in bounds")
        items = tuple(self.item.parse(v) for v in value)
        if len(set(items)) != len(items):
            raise ValueError("a value twice")
        return items

    def from_text(self, text: str) -> object:
        if text.lstrip().startswith("["):
            return tomllib.loads(f"value = {text}")["value"]
        return [self.item.from_text(part.strip()) for part in text.split(",") if part.strip()]

    def to_toml(self, value: Any) -> str:
        return "[" + ", ".join(self.item.to_toml(v) for v in value) + "]"


@dataclass(frozen=True)
class PassedOn(_Plain):
    """A value that is handed on as a string, whatever it means; only its size is ours to bound.

    names: what a name looks like. secrets: what in a name says that its value must not be shown.
    """

    allowed: str
    names: str
    secrets: str

    def parse(self, value: object) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        if not isinstance(value, str | int | float) or len(text := str(value)) > MAX_PASSED_ON or "\0" in text:
            raise ValueError("not a string in bounds")
        return text

    def is_name(self, name: str) -> bool:
        return re.fullmatch(self.names, name, re.ASCII) is not None

    def is_secret(self, name: str) -> bool:
        return re.search(self.secrets, name) is not None
