"""`zpush lag`: how many messages wait in the queue, and how old the oldest is. Asks the queue itself, so no server."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from zpush.cli.common import DONE, add_config_options, add_json_option, asking_queue, load_settings, print_json

if TYPE_CHECKING:
    from zpush.config import Settings
    from zpush.protocol.message import Priority
    from zpush.queue.base import Lag


def configure(command: str, parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Shows for each priority how many messages wait, those included that are being delivered now, and how long the "
        "oldest of them has waited. It asks the queue itself: no server and no processor need be running. "
        "Scale processors on the age, not on the number. Exit code 1: the queue does not answer."
    )
    add_json_option(parser)
    add_config_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit code. Raises QueueUnavailable, ConfigError."""
    settings = load_settings(args)
    with asking_queue(settings):
        lags = asyncio.run(_read(settings))
    if args.json:
        print_json({p.label: {"messages": lag.messages, "age_s": round(lag.age_s, 3)} for p, lag in lags.items()})
        return DONE
    print(f"{'priority':8}  {'messages':>12}  {'oldest':>10}")
    for priority, lag in lags.items():
        print(f"{priority.label:8}  {lag.messages:12}  {f'{lag.age_s:.1f} s' if lag.messages else '-':>10}")
    return DONE


async def _read(settings: Settings) -> Mapping[Priority, Lag]:
    from zpush.config.secrets import queue_url  # here, so that `--help` does not wait for it
    from zpush.queue.open import open_producer

    producer = open_producer(settings.queue, queue_url(settings))
    await producer.start()
    try:
        return await producer.lag()
    finally:
        await producer.stop()
