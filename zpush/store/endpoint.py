"""One server: where to connect, as whom, over what.

Rules. redis-py reads the URL and builds the TLS context, so zpush takes exactly the URLs that its users know.
Whatever is wrong with one is said without repeating it: it may hold a password. `where` is the only form
of an endpoint that reaches a log.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import msgspec
from redis.asyncio.connection import SSLConnection, parse_url
from redis.exceptions import RedisError

from zpush.errors import ConfigError

DEFAULT_PORT = 6379
Address = tuple[str, int]
_LOCATION = {"host", "port", "path", "db", "username", "password", "connection_class"}
_TLS = {
    "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password",
    "ssl_cert_reqs", "ssl_check_hostname", "ssl_min_version", "ssl_ciphers",
}  # fmt: skip
_P = TypeVar("_P", bound=asyncio.Protocol)


class Endpoint(msgspec.Struct, frozen=True):
    """One server. path: a Unix socket, else "" and host:port count. tls: None for plain text."""

    host: str = ""
    port: int = 0
    path: str = ""
    db: int = 0
    username: str = ""
    password: str = ""
    tls: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"<Endpoint {self.where}>"

    @property
    def where(self) -> str:
        """For logs and errors: never the credentials."""
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def at(self, address: Address) -> Endpoint:
        """The same user, password and TLS somewhere else."""
        host, port = address
        return msgspec.structs.replace(self, host=host, port=port)

    async def dial(self, factory: Callable[[], _P]) -> _P:
        """A connected transport with its protocol, or OSError (ssl.SSLError is one)."""
        loop = asyncio.get_running_loop()
        if self.path:
            _, protocol = await loop.create_unix_connection(factory, self.path)
        else:
            _, protocol = await loop.create_connection(factory, self.host, self.port, ssl=self.tls)
        return protocol


def read_endpoint(url: str) -> Endpoint:
    """redis://, rediss:// and unix:// URLs, or ConfigError."""
    scheme = url.partition("://")[0].lower()
    if scheme not in ("redis", "rediss", "unix"):
        raise ConfigError("a Redis URL starts with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://")
    try:
        options = cast(dict[str, Any], parse_url(url))
        parts = urlsplit(url)
    except ValueError:  # its text repeats what stands at the port's place: a password with an unescaped "/" does
        raise ConfigError(f"the {scheme}:// URL cannot be read: escape special characters as %XX") from None
    unknown = sorted(options.keys() - _LOCATION - (_TLS if scheme == "rediss" else set()))
    if unknown:
        raise ConfigError(f"the {scheme}:// URL has an option that is not known: {unknown[0][:40]!r}")
    if scheme == "unix" and not options.get("path"):
        raise ConfigError("a unix:// URL needs an absolute path: unix:///run/valkey.sock")
    if scheme != "unix" and parts.path.strip("/") and not parts.path.strip("/").isdecimal():
        raise ConfigError(f"the path of a {scheme}:// URL is a database number")
    return _endpoint(options)


def _endpoint(options: dict[str, Any]) -> Endpoint:
    path = str(options.get("path", ""))
    try:
        str(options.get("host", "")).encode("idna")
    except UnicodeError:
        raise ConfigError("the URL's host is not a name that can be looked up") from None
    return Endpoint(
        host="" if path else str(options.get("host", "127.0.0.1")),
        port=0 if path else options.get("port", DEFAULT_PORT),
        path=path,
        db=options.get("db", 0),
        username=str(options.get("username", "")),
        password=str(options.get("password", "")),
        tls=_tls(options),
    )


def _tls(options: dict[str, Any]) -> ssl.SSLContext | None:
    if options.get("connection_class") is not SSLConnection:
        return None
    try:
        return SSLConnection(**{k: v for k, v in options.items() if k in _TLS}).ssl_context.get()
    except (OSError, ValueError, RedisError) as e:  # a file that is not there or is no certificate
        raise ConfigError(f"the TLS options of a rediss:// URL do not work: {e}") from None
