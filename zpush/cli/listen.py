"""`zpush listen CLIENT_ID`: a client in the terminal. One message a line on stdout, what happens on stderr.

A line is a line whatever the message is: control characters are written as escapes, so that no message forges a line or
steers the terminal; a binary payload is base64. `--json` prints {"id","data"} or {"id","base64"} instead, exactly.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from zpush.cli.api import address_of
from zpush.cli.common import (
    DONE,
    FAILED,
    add_config_options,
    duration,
    escaped,
    lenient_stdout,
    load_settings,
    number,
)
from zpush.errors import ConfigError

if TYPE_CHECKING:
    from zpush.client import Client, Received, State


def configure(command: str, parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Connects as a client and prints each message on a line of its own, control characters as escapes, a binary one"
        " in base64; what becomes of the connection is told on standard error. It reconnects by itself, and tells the "
        "server what it has printed (zpush push --wait-ack). Such as: zpush listen demo. Exit code 1: it was told not "
        "to come back, or the time was over before --count messages came or before it was connected at all."
    )
    parser.add_argument("client_id", metavar="CLIENT_ID", help="who to be; with --token it is the token that decides")
    parser.add_argument("--sse", action="store_true", help="an event stream instead of a WebSocket")
    parser.add_argument("--url", metavar="U", help="where clients connect (default: ws:// and server.bind)")
    parser.add_argument(
        "--token", metavar="T", help="where auth.mode is not dev (see zpush token); - reads it from standard input"
    )
    parser.add_argument("--count", metavar="N", type=number, help="leave after this many messages")
    parser.add_argument("--timeout", metavar="DURATION", type=duration, help="leave after this time, such as 10s")
    parser.add_argument(
        "--json", action="store_true", help='each message as {"id","data"}, a binary one {"id","base64"}'
    )
    add_config_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit code: 1 where the time was over before --count messages came, or before it was connected at all.

    Raises client.Stopped, ConfigError.
    """
    lenient_stdout()
    url = args.url or f"ws://{address_of(load_settings(args), 'clients')}"
    token = sys.stdin.readline().strip() if args.token == "-" else args.token
    return asyncio.run(_listen(args, url, token))


async def _listen(args: argparse.Namespace, url: str, token: str | None) -> int:
    from zpush.client import Client  # here, so that `--help` does not wait for it

    states = _States()
    try:
        client = Client(
            url,
            client_id=args.client_id if token is None else None,
            token=token,
            transport="sse" if args.sse else "websocket",
            on_state=states.say,
        )
    except ValueError as e:
        raise ConfigError(str(e)) from None
    try:
        async with asyncio.timeout(args.timeout), client:
            await _print_messages(client, args.count, _as_json if args.json else _as_line)
    except TimeoutError:
        if args.count is None and states.opened:
            return DONE
        print("zpush: the time is over" if states.opened else "zpush: not connected in this time", file=sys.stderr)
        return FAILED
    return DONE


async def _print_messages(client: Client, count: int | None, form: Callable[[Received], str]) -> None:
    printed = 0
    async for message in client:
        print(form(message), flush=True)
        client.ack(message)
        printed += 1
        if printed == count:
            return


def _as_line(message: Received) -> str:
    if isinstance(message.data, bytes):
        return base64.b64encode(message.data).decode()
    return escaped(message.text)


def _as_json(message: Received) -> str:
    if isinstance(message.data, bytes):
        return json.dumps({"id": message.id, "base64": base64.b64encode(message.data).decode()})
    return json.dumps({"id": message.id, "data": message.data}, ensure_ascii=False)


class _States:
    """Tells the connection's states on stderr, and remembers whether it was ever open."""

    def __init__(self) -> None:
        self.opened = False

    def say(self, state: State, detail: str) -> None:
        self.opened = self.opened or state.value == "open"
        if state.value == "stopped":
            return  # by ourselves, or the command's error says why
        text = state.value.replace("_", " ")
        print(f"{text}: {detail}" if detail else text, file=sys.stderr, flush=True)
