"""What `zpush config show`, `default` and `docs` print.

Rules. Everything comes from the declarations. A secret is never printed: neither keys and secrets nor
the password in a URL.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

from zpush.config.declare import Setting
from zpush.config.kinds import PassedOn, Url
from zpush.config.loading import HIDDEN
from zpush.config.settings import SECTIONS, SETTINGS, Settings, section_of

_WIDTH = 100
# user:password@, up to the last @ of all, for a password may have an unescaped / or ? in it; and password=… in options
_PASSWORD = re.compile(r"(?<=//)([^@:]*):.*@", re.DOTALL)
_OPTION = re.compile(r"((?:password|secret)=)[^&#]*", re.IGNORECASE)

DOCS_HEAD = """\
# Configuration

<!-- Written by `zpush config docs`; change zpush/config/settings.py instead. -->

zpush starts without a configuration file. Where one is wanted, it is TOML: `-c FILE`, else `$ZPUSH_CONFIG`, else
`./zpush.toml`. Later sources win: default, file, environment, `--set`.

    [server]
    bind = "0.0.0.0:8080"                    # in the file
    ZPUSH_SERVER__BIND=0.0.0.0:8080          # in the environment
    zpush serve --set server.bind=0.0.0.0:8080

Durations are `"30m"`, `"1.5s"`, `"250ms"` (`ms s m h d`) or a number of seconds; sizes are bytes or `"64KiB"`
(`KiB MiB GiB`). In the environment and in `--set`, a list has commas between its values or is a TOML array. Whatever
is unknown, has a wrong unit or is out of bounds stops the start with one line that says where it stands and what is
allowed. `zpush config show` tells each value and where it came from, `zpush config check` only whether all is well,
and `zpush config default` prints a file with every setting to start from.
"""


def shown(setting: Setting, value: Any) -> str:
    """The value as TOML, with secrets masked."""
    kind = setting.declaration.kind
    if setting.declaration.secret and value:
        return f'"{HIDDEN}"' if isinstance(value, str) else "[" + ", ".join(f'"{HIDDEN}"' for _ in value) + "]"
    return kind.to_toml(mask_url(value) if isinstance(kind, Url | PassedOn) else value)


def mask_url(url: str) -> str:
    """The URL without its password."""
    return _OPTION.sub(rf"\1{HIDDEN}", _PASSWORD.sub(rf"\1:{HIDDEN}@", url))


def value_of(settings: Settings, setting: Setting) -> Any:
    return getattr(section_of(settings, setting.section), setting.attribute)


def show_rows(settings: Settings) -> list[dict[str, str]]:
    """key, value (TOML, masked) and origin of every setting, in the order of their declaration."""
    return [
        {"key": each.key, "value": shown(each, value), "origin": settings.origin(each.key)}
        for each, value in _values(settings)
    ]


def _values(settings: Settings) -> Iterator[tuple[Setting, Any]]:
    for each in SETTINGS.values():
        value = value_of(settings, each)
        if each.is_rest:
            yield from ((each.of_rest(name), of_name) for name, of_name in value.items())
        else:
            yield each, value


def show_text(settings: Settings) -> str:
    rows = show_rows(settings)
    width = max(len(row["key"]) for row in rows)
    column = min(width + 3 + max(len(row["value"]) for row in rows), 72)
    lines = [(f"{row['key']:{width}} = {row['value']}", row["origin"]) for row in rows]
    return "\n".join(f"{line:{column}}  # {origin}" for line, origin in lines)


def default_toml() -> str:
    """A complete configuration file that says what the defaults say."""
    parts = ["# zpush.toml: every setting with its default. Keep the lines that you change."]
    for section, cls in SECTIONS.items():
        parts += ["", _comment(cls.__doc__ or ""), f"[{section}]"]
        parts += [line for each in _of(section) for line in _entry(each)]
    return "\n".join(parts)


def _entry(setting: Setting) -> Iterator[str]:
    declaration = setting.declaration
    yield ""
    yield _comment(f"{declaration.text}")
    yield _comment(f"Allowed: {declaration.kind.allowed}.")
    if not setting.is_rest:
        yield f"{setting.name} = {declaration.kind.to_toml(declaration.default)}"


def _comment(text: str) -> str:
    return "\n".join(textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# "))


def docs_markdown() -> str:
    parts = [DOCS_HEAD]
    for section, cls in SECTIONS.items():
        parts += [f"## `[{section}]`", "", cls.__doc__ or "", ""]
        parts += ["| Setting | Default | What | Allowed |", "|---|---|---|---|"]
        parts += [_row(each) for each in _of(section)]
        parts.append("")
    return "\n".join(parts).rstrip()


def _row(setting: Setting) -> str:
    declaration = setting.declaration
    if setting.is_rest:
        cells: tuple[str, ...] = ("any other", "", declaration.text, declaration.kind.allowed)
    else:
        default = declaration.kind.to_toml(declaration.default)
        cells = (f"`{setting.name}`", f"`{default}`", declaration.text, declaration.kind.allowed)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _of(section: str) -> list[Setting]:
    return [each for each in SETTINGS.values() if each.section == section]
