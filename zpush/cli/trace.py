"""`zpush trace ID`: what became of a message, by the receipts that processors wrote. A line each, the oldest first.

Rules. Receipts have no index by id: they are read from a time on. An id that zpush made tells when that was. Exit code
3 where there is no receipt; 1 where the time was over before all were read and none was found.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING

from zpush.cli.common import (
    DONE,
    NOT_DELIVERED,
    add_config_options,
    add_json_option,
    asking_queue,
    duration,
    escaped,
    lenient_stdout,
    load_settings,
    utc,
)
from zpush.errors import ConfigError, Unavailable
from zpush.protocol.message import check_id, made_ms

if TYPE_CHECKING:
    from zpush.config import Settings
    from zpush.queue.receipt import Receipt

TIMEOUT_S = 10.0
SINCE_S = 3600.0
CLOCKS_S = 60.0  # by which a sender's clock may be ahead of a processor's


def configure(command: str, parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Shows what became of a queued message: the outcome for each client, when it was queued and when it was "
        "settled. Processors write such receipts where queue.receipts is on. Exit code 3: there is none (yet)."
    )
    parser.add_argument("id", metavar="ID", help="the message's id, as `zpush push` and the API told it")
    parser.add_argument(
        "--since",
        metavar="DURATION",
        type=duration,
        help="read receipts that are not older than this (default: from when the id was made, where zpush made it; "
        "else 1h)",
    )
    parser.add_argument("--follow", action="store_true", help="then wait for more, until --timeout or Ctrl-C")
    parser.add_argument(
        "--timeout", metavar="DURATION", type=duration, help="leave after this time (default: 10s; --follow: never)"
    )
    add_json_option(parser)
    add_config_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit code. Raises QueueUnavailable, Unavailable, ConfigError, MalformedMessage."""
    message_id = check_id(args.id, "ID")
    settings = load_settings(args)
    if not settings.queue.receipts:
        raise ConfigError(
            "queue.receipts is off: set queue.receipts = true for zpush serve, zpush process and this command"
            + (", and let `zpush topics create` make the topic" if settings.on_kafka else "")
        )
    lenient_stdout()
    with asking_queue(settings):
        return asyncio.run(_trace(args, settings, message_id))


async def _trace(args: argparse.Namespace, settings: Settings, message_id: str) -> int:
    from zpush.config.secrets import queue_url  # here, so that `--help` does not wait for it
    from zpush.queue.open import open_receipt_reader

    since_ms = _since_ms(message_id, args.since)
    timeout_s = args.timeout if args.timeout is not None else None if args.follow else TIMEOUT_S
    reader = open_receipt_reader(settings.queue, queue_url(settings))
    found, is_read = 0, True
    try:
        async with asyncio.timeout(timeout_s):
            await reader.start()
            async for receipt in reader.read(message_id, since_ms, args.follow):
                print(_as_json(receipt) if args.json else _as_line(receipt), flush=True)
                found += 1
    except TimeoutError:
        is_read = args.follow
    finally:
        await reader.stop()
    if not is_read and not found:
        raise Unavailable(f"not all receipts were read within {timeout_s:g} s (--timeout), and none of {message_id}")
    if not is_read:
        print(f"not all receipts were read within {timeout_s:g} s (--timeout): there may be more", file=sys.stderr)
    if not found:
        print(f"no receipt of {message_id} since {utc(since_ms)} UTC", file=sys.stderr)
    return DONE if found else NOT_DELIVERED


def _since_ms(message_id: str, since_s: float | None) -> int:
    now_ms = time.time_ns() // 1_000_000
    made = made_ms(message_id)
    if since_s is None and made:
        return min(made, now_ms) - round(CLOCKS_S * 1000)
    return max(0, now_ms - round((SINCE_S if since_s is None else since_s) * 1000))


def _as_line(receipt: Receipt) -> str:
    if receipt.counts:
        outcome, whom = "all", ", ".join(f"{name} {number}" for name, number in receipt.counts.items())
    else:
        outcome, whom = receipt.outcome or "-", receipt.client or "no client"
    details = [
        f"after {max(0, receipt.settled_ms - receipt.queued_ms)} ms",
        f"user {receipt.user}" if receipt.user else "",
        receipt.priority,
        f"node {receipt.node}" if receipt.node else "",
        f"region {receipt.region}",
        "redelivered" if receipt.redelivered else "",
    ]
    return escaped(f"{utc(receipt.settled_ms)}  {outcome:12}  {whom}  {', '.join(filter(None, details))}")


def _as_json(receipt: Receipt) -> str:
    """With every field, and in ASCII: whoever wrote it has no power over a terminal."""
    return json.dumps({name: getattr(receipt, name) for name in receipt.__struct_fields__})
