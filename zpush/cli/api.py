"""What the commands that call the HTTP API share: `--api`, `--key-file`, and one GET.

Rules. Without `--api` it is the API of the configuration, with the configuration's first key for the purpose. That key
goes nowhere else: another server gets the key of `--key-file` or none. Where the configuration leaves a port to the
kernel (0), the running master is asked for it.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from zpush.cli.common import add_config_options, load_settings
from zpush.config import api_keys, read_secret_file, scoped
from zpush.config.units import is_loopback, is_unspecified, split_address
from zpush.errors import ConfigError, Unauthorized, Unavailable
from zpush.master import control

if TYPE_CHECKING:
    from zpush.config import Settings

TIMEOUT_S = 10.0


class Api(NamedTuple):
    """url: without a path. key: "" for none."""

    url: str
    key: str


def add_api_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--api", metavar="URL", help="the HTTP API (default: http:// and api.bind)")
    parser.add_argument("--key-file", metavar="FILE", help="file with the API's key (default: the configuration's)")
    add_config_options(parser)


def find_api(args: argparse.Namespace, purpose: str = "read") -> Api:
    """purpose: read, or push. Raises ConfigError, Unavailable."""
    key = read_secret_file(args.key_file).decode(errors="replace").partition("\n")[0].strip() if args.key_file else ""
    if not (key.isascii() and (key.isprintable())):
        raise ConfigError(f"{args.key_file}: a key is printable ASCII")
    if args.api is not None:
        if not args.api.startswith(("http://", "https://")):
            raise ConfigError(f"--api is a URL that starts with http:// or https://, not {args.api[:80]!r}")
        return Api(args.api.rstrip("/"), key)
    settings = load_settings(args)
    return Api(f"http://{address_of(settings, 'api')}", key or configured_key(settings, purpose))


def address_of(settings: Settings, port: str) -> str:
    """host:port under which this machine reaches a port of the configuration's server: clients or api.

    Raises Unavailable where only a running server knows it, and there is none.
    """
    bind = settings.server.bind if port == "clients" else settings.api.bind
    if split_address(bind)[1] == 0:
        bind = control.ask(settings.server.control_socket, "status")["addresses"][port]
    return reachable(bind)


def configured_key(settings: Settings, purpose: str) -> str:
    """The first one for this purpose, without what it is for; "" where there is none."""
    return next((key for key, purposes in map(scoped, api_keys(settings)) if purpose in purposes), "")


def reachable(bind: str) -> str:
    """host:port under which this machine reaches what is bound there."""
    host, port = split_address(bind)
    if is_unspecified(host):
        host = "::1" if ":" in host else "127.0.0.1"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def get(api: Api, path: str, timeout_s: float = TIMEOUT_S) -> dict[str, Any] | None:
    """The API's JSON answer; None for 404. Raises Unavailable, Unauthorized, ConfigError."""
    import httpx  # here, so that `--help` does not wait for it

    headers = {"Authorization": f"Bearer {api.key}"} if api.key else {}
    try:
        url = httpx.URL(api.url + path)
        # No proxy of the environment leads to this very machine.
        answer = httpx.get(url, headers=headers, timeout=timeout_s, trust_env=not is_loopback(url.host))
    except httpx.ConnectError as e:
        raise Unavailable(f"the API at {api.url} cannot be reached ({e}): is `zpush serve` running?") from None
    except httpx.TransportError as e:
        raise Unavailable(f"the API at {api.url}: {str(e) or type(e).__name__}") from None
    except httpx.InvalidURL as e:
        raise ConfigError(f"--api: {e}") from None
    if answer.status_code == 404:
        return None
    try:
        value = json.loads(answer.content)
    except ValueError:
        value = None
    if answer.status_code == 200 and isinstance(value, dict):
        return value
    reason = _message(value) or f"it answered {answer.status_code}"
    error = Unauthorized if answer.status_code in (401, 403) else Unavailable
    raise error(f"the API at {api.url}: {reason}")


def _message(value: Any) -> str:
    """Of an error in the API's form."""
    error = value.get("error") if isinstance(value, dict) else None
    return str(error.get("message", "")) if isinstance(error, dict) else ""
