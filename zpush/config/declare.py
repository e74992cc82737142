"""How a setting is declared: once, as a field of its section's dataclass.

Rules. A declaration carries all there is to know: kind (type, unit, bounds), default as it would stand
in TOML, and text. The TOML key is the field's name; a duration's field ends in `_s`, its key does not.
TOML key, environment variable, `--set`, `config default` and the documentation all come from here. A section may
pass on what it does not declare (`passed_on`): every other key of it is a string for somebody else to judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from zpush.config import kinds
from zpush.config.units import parse_duration, parse_size

ANY_TEXT = kinds.Text("a string")
REST = "*"  # the name of what is passed on
_METADATA = "declaration"


@dataclass(frozen=True)
class Declaration:
    kind: kinds.Kind
    default: Any  # parsed
    text: str
    secret: bool = False


@dataclass(frozen=True)
class Setting:
    """A declaration and its names."""

    key: str  # connections.max_age
    section: str  # connections
    attribute: str  # max_age_s
    declaration: Declaration

    @property
    def name(self) -> str:
        return self.key.removeprefix(f"{self.section}.")

    @property
    def is_rest(self) -> bool:
        """Whether this is what the section passes on: a mapping of names to values, each a setting by itself."""
        return self.name == REST

    def of_rest(self, name: str) -> Setting:
        """One setting of those that are passed on."""
        kind = self.declaration.kind
        assert isinstance(kind, kinds.PassedOn)
        declaration = Declaration(kind, "", self.declaration.text, secret=kind.is_secret(name))
        return Setting(f"{self.section}.{name}", self.section, self.attribute, declaration)


def settings_of(section: str, cls: Any) -> list[Setting]:
    """The settings that a section's dataclass declares, in order; a section within it declares its own."""
    found = []
    for each in fields(cls):
        declaration: Declaration | None = each.metadata.get(_METADATA)
        if declaration is not None:
            found.append(Setting(f"{section}.{_name(each.name, declaration.kind)}", section, each.name, declaration))
    return found


def _name(attribute: str, kind: kinds.Kind) -> str:
    if isinstance(kind, kinds.PassedOn):
        return REST
    return attribute.removesuffix("_s") if isinstance(kind, kinds.Duration) else attribute


def _declare(kind: kinds.Kind, default: object, text: str, secret: bool = False) -> Any:
    parsed = kind.parse(default)  # a default out of its own bounds fails at import
    # Not in repr: a URL can carry a password.
    shown = not secret and not isinstance(kind, kinds.Url)
    return field(default=parsed, repr=shown, metadata={_METADATA: Declaration(kind, parsed, text, secret)})


def text(default: str, what: str, kind: kinds.Text = ANY_TEXT, *, secret: bool = False) -> str:
    value: str = _declare(kind, default, what, secret)
    return value


def choice(default: str, options: Sequence[str], what: str) -> str:
    value: str = _declare(kinds.Choice(tuple(options)), default, what)
    return value


def address(default: str, what: str) -> str:
    """With "" as its default, "" is allowed."""
    value: str = _declare(kinds.Address(optional=not default), default, what)
    return value


def url(schemes: Sequence[str], what: str) -> str:
    value: str = _declare(kinds.Url(tuple(schemes)), "embedded", what)
    return value


def integer(default: int, low: int, high: int, what: str) -> int:
    value: int = _declare(kinds.Integer(low, high), default, what)
    return value


def size(default: str, low: str, high: str, what: str) -> int:
    value: int = _declare(kinds.Size(parse_size(low), parse_size(high)), default, what)
    return value


def duration(default: str, low: str, high: str, what: str) -> float:
    value: float = _declare(kinds.Duration(parse_duration(low), parse_duration(high)), default, what)
    return value


def ratio(default: float, low: float, high: float, what: str) -> float:
    value: float = _declare(kinds.Ratio(low, high), default, what)
    return value


def flag(default: bool, what: str) -> bool:
    value: bool = _declare(kinds.Flag(), default, what)
    return value


def many(
    default: Sequence[str], item: kinds.Kind, what: str, *, least: int = 0, most: int = 1000, secret: bool = False
) -> tuple[str, ...]:
    value: tuple[str, ...] = _declare(kinds.Many(item, least, most), list(default), what, secret)
    return value


def passed_on(kind: kinds.PassedOn, what: str) -> Mapping[str, str]:
    """All keys of the section that it does not declare itself."""
    nothing: Mapping[str, str] = MappingProxyType({})
    declaration = Declaration(kind, nothing, what)
    value: Mapping[str, str] = field(default_factory=lambda: nothing, repr=False, metadata={_METADATA: declaration})
    return value
