"""What commands share: the options `-c`, `--set` and `--json`, and the settings they lead to."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from zpush.errors import Unavailable

if TYPE_CHECKING:
    from zpush.config import Settings

DONE, FAILED, USAGE, NOT_DELIVERED = 0, 1, 2, 3  # exit codes

# What steers a terminal, ends a line, or turns its direction (U+202A…).
_STEERING = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_ESCAPES = {code: chr(code).encode("unicode_escape").decode() for code in _STEERING if code != 0x09}


def add_config_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="configuration (default: $ZPUSH_CONFIG, then ./zpush.toml, then built in)",
    )
    parser.add_argument(
        "--set",
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        action="append",
        default=[],
        help="a setting (zpush config default lists them all) that overrides environment and file; may be repeated",
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the result as JSON, for scripts")


def load_settings(args: argparse.Namespace, extra: Sequence[str] = ()) -> Settings:
    """The settings that the options lead to; extra: "section.key=value" from a command's own options."""
    from zpush import config  # here, so that `zpush --help` does not wait for it

    return config.load(config.locate(args.config, os.environ), os.environ, [*args.overrides, *extra])


@contextlib.contextmanager
def asking_queue(settings: Settings) -> Iterator[None]:
    """Where the queue is away and is a server's own, says that it takes that server."""
    from zpush.config.settings import EMBEDDED

    try:
        yield
    except Unavailable as e:
        if settings.queue.url != EMBEDDED:
            raise
        raise Unavailable(f"{e}; does `zpush serve` run on this server.data_dir? The queue is its own") from None


def escaped(text: str) -> str:
    """On one line, and without power over a terminal, whoever wrote it. Tabs stay."""
    return text.translate(_ESCAPES)


def lenient_stdout() -> None:
    """For what it cannot write: a terminal that is not UTF-8; a JSON string's lone surrogate."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def utc(time_ms: int) -> str:
    """2026-01-31 12:00:00.123; "-" where the time is not known."""
    from datetime import UTC, datetime

    if not time_ms:
        return "-"
    return f"{datetime.fromtimestamp(time_ms // 1000, UTC):%Y-%m-%d %H:%M:%S}.{time_ms % 1000:03}"


def duration(text: str) -> float:
    """The type of an option: seconds."""
    from zpush.config.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'"{text}" is not a duration such as 60s, 5m or 1h') from None


def number(text: str) -> int:
    """The type of an option: a whole number from 1 on."""
    if not (text.isascii() and text.isdigit() and 0 < int(text[:10]) < 10**9):
        raise argparse.ArgumentTypeError(f'"{text}" is not a whole number from 1 on')
    return int(text)


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))
