"""`zpush where CLIENT_ID`: the client's lease, read through the HTTP API. Exit code 3 where there is none."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from zpush.cli.api import add_api_options, find_api, get
from zpush.cli.common import DONE, NOT_DELIVERED, add_json_option, print_json
from zpush.protocol.message import check_id


def configure(command: str, parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Prints which worker of which box holds the client, and since when. Exit code: 1 no API answers; 3 it is "
        "offline."
    )
    parser.add_argument("client_id", metavar="CLIENT_ID", help="whom to look for")
    add_json_option(parser)
    add_api_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    client_id = check_id(args.client_id, "client")
    lease = get(find_api(args), f"/v1/clients/{quote(client_id, safe='')}")
    if lease is None:
        print(f"{client_id} is offline", file=sys.stderr)
        return NOT_DELIVERED
    if args.json:
        print_json(lease)
    else:
        for name, value in _lines(lease):
            print(f"{name:8}{value}")
    return DONE


def _lines(lease: dict[str, Any]) -> list[tuple[str, object]]:
    since_s = lease["since_ms"] / 1000
    since = datetime.fromtimestamp(since_s, UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
    lines = [
        ("client", lease["client"]),
        ("user", lease["user"]),
        ("node", f"{lease['node']} on {lease['box']}, region {lease['region']}"),
        ("worker", f"{lease['worker']} at {lease['address']}"),
        ("since", f"{since} UTC, {max(0, int(time.time() - since_s))} s ago"),
        ("epoch", lease["epoch"]),
    ]
    return [(name, value) for name, value in lines if value != ""]
