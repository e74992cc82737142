"""`zpush token CLIENT_ID [--user U] [--ttl 1h]`: a token or a cookie's value, signed with the first key of the file."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from zpush.cli.common import DONE, add_config_options, add_json_option, load_settings, print_json
from zpush.config.units import parse_duration
from zpush.errors import ConfigError

if TYPE_CHECKING:
    from zpush.config.settings import Auth

MAX_TTL_S = 366 * 86400.0


def configure(command: str, parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Prints a token for this client, signed with the first secret of auth.keys_file; where auth.mode is cookie, "
        "the cookie's value. Such as: zpush token demo | zpush listen demo --token -. Exit code 2: the configuration's "
        "clients need no token, or it has no secret."
    )
    parser.add_argument("client_id", metavar="CLIENT_ID", help="who it is for")
    parser.add_argument("--user", metavar="ID", default="", help="the user that the client belongs to")
    parser.add_argument(
        "--ttl", metavar="DURATION", type=_ttl, default=3600.0, help="how long it is good (default: 1h)"
    )
    add_json_option(parser)
    add_config_options(parser)
    parser.set_defaults(run=run)


def _ttl(text: str) -> float:
    try:
        ttl_s = parse_duration(text)
    except ValueError:
        ttl_s = 0.0
    if not 1.0 <= ttl_s <= MAX_TTL_S:
        raise argparse.ArgumentTypeError(f'"{text}" is not a duration from 1s to 366d, such as 90s, 1h or 7d')
    return ttl_s


def run(args: argparse.Namespace) -> int:
    """Exit code. Raises ConfigError where the configuration's clients need no token."""
    auth = load_settings(args).auth
    now_s = time.time()
    token = _sign(auth, args.client_id, args.user, args.ttl, now_s)
    if args.json:
        print_json({"token": token, "client": args.client_id, "user": args.user, "expires": int(now_s + args.ttl)})
    else:
        print(token)
    return DONE


def _sign(auth: Auth, client_id: str, user_id: str, ttl_s: float, now_s: float) -> str:
    # The imports stand where they are needed, so that an answer without a token does not wait for the cryptography.
    if auth.mode == "dev":
        target = f"/ws?client={quote(client_id, safe='')}"
        raise ConfigError(
            f'auth.mode is "{auth.mode}": clients need no token, they connect to {target}; '
            'for tokens set auth.mode = "jwt" and auth.keys_file'
        )
    if auth.mode not in ("jwt", "cookie"):
        raise ConfigError(f'auth.mode is "{auth.mode}": who decides there also says what a token is')
    key = _first_secret(auth)
    if auth.mode == "cookie":
        from zpush.auth import cookie

        return cookie.sign(key, client_id, user_id, ttl_s=ttl_s, now_s=now_s)
    from zpush.auth import jwt

    return jwt.sign(key, client_id, user_id, ttl_s=ttl_s, audience=auth.audience, issuer=auth.issuer, now_s=now_s)


def _first_secret(auth: Auth) -> bytes:
    from zpush.auth.keys import load_key_file

    secrets = load_key_file(auth.keys_file).secrets if auth.keys_file else ()
    if not secrets:
        raise ConfigError("there are only public keys, which cannot sign: tokens come from who has the private ones")
    return secrets[0]
