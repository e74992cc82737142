"""From a file, the environment and the command line to Settings.

Rules. Later sources win: default, file, environment, `--set`. Each source is checked whole, also what a
later one overrides. The first thing that is wrong raises ConfigError with one line: where it stands, the
key, what was found (never a secret) and what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from zpush.config import checks
from zpush.config.declare import Setting
from zpush.config.kinds import PassedOn, Url
from zpush.config.settings import SECTIONS, SETTINGS, Settings, with_values
from zpush.errors import ConfigError

MAX_FILE_BYTES = 1 << 20
DEFAULT_FILE = "zpush.toml"
HIDDEN = "***"
RESTS = [setting for setting in SETTINGS.values() if setting.is_rest]
_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]")
_ASSIGNMENT = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)


class Given(NamedTuple):
    """A value and where it stands: "zpush.toml:12", "ZPUSH_SERVER__BIND", "--set"."""

    value: Any
    origin: str


def locate(argument: str | None, environ: Mapping[str, str]) -> str | None:
    """The configuration file's path: `-c`, $ZPUSH_CONFIG, ./zpush.toml where there is one, else None."""
    named = argument or environ.get("ZPUSH_CONFIG")
    if named:
        return named
    return DEFAULT_FILE if os.path.exists(DEFAULT_FILE) else None


def load(path: str | None, environ: Mapping[str, str], overrides: Sequence[str]) -> Settings:
    """path: a TOML file or None; overrides: "section.key=value". Raises ConfigError."""
    given: dict[str, Given] = {}
    if path is not None:
        given.update(_from_file(path))
    given.update(_from_environ(environ))
    given.update(_from_overrides(overrides))
    settings = _settle(_build(given))
    checks.check(settings)
    return settings


def _build(given: Mapping[str, Given]) -> Settings:
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for key, each in given.items():
        setting = _find(key, each.origin)
        of_section = values[setting.section]
        if key in SETTINGS:
            of_section[setting.attribute] = each.value
        else:
            of_section.setdefault(setting.attribute, {})[setting.name] = each.value
    return with_values(Settings(), values, {key: each.origin for key, each in given.items()})


def _settle(settings: Settings) -> Settings:
    """Values that follow from others take their place, so that nobody else has to know how."""
    server, auth, queue, processor = settings.server, settings.auth, settings.queue, settings.processor
    sockets = [each.control_socket.replace("<data_dir>", server.data_dir.rstrip("/")) for each in (server, processor)]
    group = queue.kafka.group.replace("<prefix>", queue.prefix).replace("<region>", settings.peers.region)
    if not auth.mode and settings.embedded:
        auth = dataclasses.replace(auth, mode="dev")
    return dataclasses.replace(
        settings,
        server=dataclasses.replace(server, control_socket=sockets[0]),
        auth=auth,
        queue=dataclasses.replace(queue, kafka=dataclasses.replace(queue.kafka, group=group)),
        processor=dataclasses.replace(processor, control_socket=sockets[1]),
    )


def _from_file(path: str) -> Iterator[tuple[str, Given]]:
    text = _read(path)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{path}: not valid TOML: {e}") from None
    lines = _lines(text)
    for section, entries in document.items():
        if section not in SECTIONS or not isinstance(entries, dict):
            raise _unknown(section, _place(path, lines, section))
        for key, value in _entries(section, entries):
            origin = _place(path, lines, key)
            setting = _find(key, origin)
            yield key, Given(_parse(setting, value, origin), origin)


def _entries(section: str, table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values. A table is a section, or a name with dots that were not quoted."""
    for name, value in table.items():
        key = f"{section}.{name}"
        if isinstance(value, dict) and (key in SECTIONS or _rest(key) is not None):
            yield from _entries(key, value)
        else:
            yield key, value


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as e:
        raise ConfigError(f"{path}: cannot read the configuration: {e.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path}: not valid UTF-8 at byte {e.start}") from None


def _lines(text: str) -> dict[str, int]:
    """Dotted key or section → line. tomllib does not tell, and error lines must; a rough scan is enough."""
    found: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            section = header[1] + "."
            found.setdefault(header[1], number)
        elif assignment := _ASSIGNMENT.match(line):
            name = re.sub(r"[\s\"']", "", assignment[1])
            found.setdefault(section + name, number)
            found.setdefault((section + name).partition(".")[0], number)
    return found


def _place(path: str, lines: Mapping[str, int], key: str) -> str:
    """Of the key, or of the table that it stands in."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return f"{path}:{lines[key]}" if key else path


def _from_environ(environ: Mapping[str, str]) -> Iterator[tuple[str, Given]]:
    """ZPUSH_SECTION__KEY, `__` for each dot. Names without it, such as ZPUSH_CONFIG, are no settings."""
    for variable, text in environ.items():
        if not variable.startswith("ZPUSH_") or "__" not in variable:
            continue
        key = variable.removeprefix("ZPUSH_").lower().replace("__", ".")
        setting = _find(key, variable)
        yield key, Given(_parse_text(setting, text, variable), variable)


def _from_overrides(overrides: Sequence[str]) -> Iterator[tuple[str, Given]]:
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals:
            raise ConfigError(f"--set: {_found(key)} has no value; allowed is section.key=value")
        setting = _find(key, "--set")
        yield key, Given(_parse_text(setting, text.strip(), "--set"), "--set")


def _find(key: str, origin: str) -> Setting:
    setting = SETTINGS.get(key) or _rest(key)
    if setting is None or setting.is_rest:
        raise _unknown(key, origin)
    return setting


def _rest(key: str) -> Setting | None:
    """A setting that its section passes on. None where there is no such section, or it is one of ours misspelled."""
    for rest in RESTS:
        name = key.removeprefix(f"{rest.section}.")
        if name != key and isinstance(rest.declaration.kind, PassedOn) and rest.declaration.kind.is_name(name):
            ours = [each.name for each in SETTINGS.values() if each.section == rest.section]
            return None if difflib.get_close_matches(name, ours, 1, 0.75) else rest.of_rest(name)
    return None


def _unknown(key: str, origin: str) -> ConfigError:
    section = key.partition(".")[0]
    near = difflib.get_close_matches(key, SETTINGS, 1, 0.75) or difflib.get_close_matches(key, SECTIONS, 1, 0.75)
    if near:
        hint = f"did you mean {near[0]}?"
    elif section in SECTIONS:
        hint = "allowed are " + ", ".join(s.key for s in SETTINGS.values() if s.section == section)
    else:
        hint = "sections are " + ", ".join(SECTIONS)
    return ConfigError(f"{origin}: {_found(key)} is not a setting; {hint}")


def _parse_text(setting: Setting, text: str, origin: str) -> Any:
    try:
        value = setting.declaration.kind.from_text(text)
    except ValueError:  # tomllib's TOMLDecodeError is one
        raise _refused(setting, text, origin) from None
    return _parse(setting, value, origin)


def _parse(setting: Setting, value: object, origin: str) -> Any:
    try:
        return setting.declaration.kind.parse(value)
    except ValueError:
        raise _refused(setting, value, origin) from None


def _refused(setting: Setting, value: object, origin: str) -> ConfigError:
    # A URL that cannot be read cannot be masked either: where its password starts is not known.
    may_be_url = isinstance(setting.declaration.kind, Url) or "://" in str(value)
    secret = setting.declaration.secret or (may_be_url and "@" in str(value))
    found = HIDDEN if secret else _found(value)
    return ConfigError(f"{origin}: {setting.key} is {found}; allowed is {setting.declaration.kind.allowed}")


def _found(value: object) -> str:
    shown = json.dumps(value, default=str)
    return shown if len(shown) <= 60 else shown[:57] + "..."
