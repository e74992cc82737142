"""`zpush push (--client ID… | --user ID | --all) DATA`: sends one message through the HTTP API.

Prints `queued <message id>`. With --direct it prints what became of it: the outcome alone for one client, a line
`<outcome> <client id>` each for several or a user's, `<outcome> <connections>` for --all. Exit code 3 where a client
that was named was not reached, or with --user and --all nobody was.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, BinaryIO

from zpush.cli.api import add_api_options, find_api
from zpush.cli.common import DONE, NOT_DELIVERED, duration
from zpush.errors import MalformedMessage

if TYPE_CHECKING:
    from zpush.delivery.pushes import Fields, Result

MAX_DATA_BYTES = 16 * 1024 * 1024  # the API's own bound is lower; this one is for what would never end


def configure(command: str, parser: argparse.ArgumentParser) -> None:
    parser.description = (
        'Sends one message through the HTTP API and prints "queued" and its id. With --direct it goes past the queue, '
        'and what became of it is printed: the outcome for one client, a line "OUTCOME CLIENT" for each of several or '
        'of a user, "OUTCOME COUNT" for --all. Such as: zpush push --client demo --direct hello. Exit code: 0 queued '
        "or delivered; 1 no API answers; 2 wrong usage; 3 a client that was named was not reached, or with --user and "
        "--all nobody was."
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--client", metavar="ID", action="append", help="to this client; may be repeated")
    target.add_argument("--user", metavar="ID", help="to all clients of this user")
    target.add_argument("--all", action="store_true", help="to everybody")
    parser.add_argument("--priority", choices=("high", "normal", "low"), default="normal", help="(default: normal)")
    parser.add_argument(
        "--ttl",
        metavar="DURATION",
        type=duration,
        help="worth delivering for this long, such as 60s (default: until processor.max_age)",
    )
    parser.add_argument("--direct", action="store_true", help="not queued: deliver now and tell what became of it")
    parser.add_argument(
        "--wait-ack",
        metavar="DURATION",
        type=duration,
        help="direct, and wait so long for the client's own ack, such as 5s",
    )
    parser.add_argument(
        "--id", metavar="ID", help="the message's id, by which clients drop doubles (default: a new one)"
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--json", action="store_true", help="DATA is JSON, not text")
    kind.add_argument("--file", metavar="F", help="send what is in this file; as binary where it is not UTF-8")
    parser.add_argument("data", metavar="DATA", nargs="?", help="the text to send; - reads it from standard input")
    add_api_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit code. Raises MalformedMessage, Unavailable, Unauthorized, ConfigError."""
    fields = _payload(args)
    api = find_api(args, "push")
    from zpush.delivery.pusher import Pusher  # here, so that `--help` and wrong usage do not wait for it

    if args.user is not None:
        fields["user"] = args.user
    elif args.all:
        fields["all"] = True
    elif len(args.client) == 1:
        fields["client"] = args.client[0]
    else:
        fields["clients"] = args.client
    fields |= {"priority": args.priority, "ttl": args.ttl, "id": args.id, "wait_ack": args.wait_ack}
    with Pusher(api.url, api_key=api.key) as pusher:
        if args.direct or args.wait_ack is not None:
            return _report(pusher.push_sync(direct=True, **fields), everybody=args.all or args.user is not None)
        return _report(pusher.push_sync(**fields), everybody=False)


def _payload(args: argparse.Namespace) -> Fields:
    """text, data or binary."""
    if (args.data is None) is (args.file is None):
        raise MalformedMessage("give DATA, - for standard input, or --file F: exactly one of them")
    if args.file is not None:
        with open(args.file, "rb") as file:
            content = _read(file, args.file)
    elif args.data == "-":
        content = _read(sys.stdin.buffer, "standard input")
    else:
        content = args.data.encode(errors="surrogateescape")
    if args.json:
        return {"data": _json(content)}
    try:
        return {"text": content.decode()}
    except UnicodeDecodeError:
        return {"binary": content}


def _read(file: BinaryIO, name: str) -> bytes:
    content = file.read(MAX_DATA_BYTES + 1)
    if len(content) > MAX_DATA_BYTES:
        raise MalformedMessage(f"{name}: more than {MAX_DATA_BYTES} bytes are too much for one message")
    return content


def _json(content: bytes) -> object:
    """Checked, and passed on as it was written: 1.0 stays 1.0."""
    import msgspec

    try:
        msgspec.json.decode(content)
    except (ValueError, RecursionError) as e:
        raise MalformedMessage(f"DATA is not JSON: {e}") from None
    return msgspec.Raw(content.strip())


def _report(result: Result, everybody: bool) -> int:
    """everybody: to have reached one is to have delivered."""
    from zpush.protocol.message import Outcome

    reached = {Outcome.DELIVERED, Outcome.ACKED}
    if isinstance(result, str):
        print(f"queued {result}")
        return DONE
    if isinstance(result, Outcome):
        print(result.label)
        return DONE if result in reached else NOT_DELIVERED
    if not result:  # a user without clients, or nobody at all
        print(Outcome.OFFLINE.label)
        return NOT_DELIVERED
    outcomes = []
    for key, value in result.items():
        outcome, whom = (key, value) if isinstance(key, Outcome) else (value, key)
        print(f"{Outcome(outcome).label} {whom}")
        outcomes.append(outcome in reached)
    return DONE if (any(outcomes) if everybody else all(outcomes)) else NOT_DELIVERED
