"""A URL, read into a place: which servers to ask, and as whom to talk to the one that they name.

    redis[s]://[user[:password]@]host[:port][/db]       unix://[user[:password]@]/path[?db=n]
    redis[s]+sentinel://[user[:password]@]host[:port],…/service[/db]
    redis[s]+cluster://[user[:password]@]host[:port],…

Rules. User, password and options are the data servers'; Sentinels have credentials of their own, `sentinel_username`
and `sentinel_password` among the options. Each host is read as if it stood alone (endpoint.py): the same rules hold.
"""

from __future__ import annotations

import enum
import re
from urllib.parse import parse_qsl, urlencode

import msgspec

from zpush.errors import ConfigError
from zpush.store.endpoint import Endpoint, read_endpoint

DEFAULT_SENTINEL_PORT = 26379
MAX_HOSTS = 100
SERVICE = r"[A-Za-z0-9._-]{1,255}"  # what Sentinel takes for a name


class Kind(enum.StrEnum):
    """INFO's word for how a server runs."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


class Place(msgspec.Struct, frozen=True):
    """server: a standalone one; else as whom and how to talk to those found. asked: the Sentinels, or cluster nodes."""

    kind: Kind
    server: Endpoint
    asked: tuple[Endpoint, ...] = ()
    service: str = ""

    @property
    def servers(self) -> Kind:
        """How those run that hold the data."""
        return Kind.CLUSTER if self.kind is Kind.CLUSTER else Kind.STANDALONE

    @property
    def where(self) -> str:
        """For logs: never the credentials."""
        if self.kind is Kind.STANDALONE:
            return self.server.where
        return ",".join(endpoint.where for endpoint in self.asked)


class _Parts(msgspec.Struct, frozen=True):
    """A URL of several hosts, taken apart. user: user[:password], as it stands there."""

    transport: str
    user: str
    hosts: list[str]
    path: str
    options: dict[str, str]

    def endpoint(self, host: str, db: str = "") -> Endpoint:
        authority = f"{self.user}@{host}" if self.user else host
        query = f"?{urlencode(self.options)}" if self.options else ""
        return read_endpoint(f"{self.transport}://{authority}/{db}{query}")


def read_url(url: str) -> Place:
    """ConfigError where it is wrong; it never repeats the URL."""
    scheme, _, rest = url.partition("://")
    transport, _, kind = scheme.lower().partition("+")
    if transport not in ("redis", "rediss") or kind not in (Kind.SENTINEL, Kind.CLUSTER):
        return Place(Kind.STANDALONE, read_endpoint(url))
    parts = _take_apart(transport, rest)
    return _cluster(parts) if kind == Kind.CLUSTER else _sentinel(parts)


def _take_apart(transport: str, rest: str) -> _Parts:
    place, _, query = rest.partition("?")
    authority, _, path = place.partition("/")
    if "#" in rest or "@" in path or "@" in query:
        raise ConfigError("the Redis URL cannot be read: escape special characters as %XX")
    user, _, hosts = authority.rpartition("@")
    names = [name for name in hosts.split(",") if name]
    if not 0 < len(names) <= MAX_HOSTS:
        raise ConfigError(f"a Redis URL of several servers names 1 to {MAX_HOSTS} hosts, with commas between them")
    return _Parts(transport, user, names, path, dict(parse_qsl(query)))


def _cluster(parts: _Parts) -> Place:
    nodes = tuple(parts.endpoint(host) for host in parts.hosts)
    if parts.path or nodes[0].db:
        raise ConfigError("a redis+cluster:// URL names no database: a cluster has only one")
    return Place(Kind.CLUSTER, nodes[0], nodes)


def _sentinel(parts: _Parts) -> Place:
    service, _, db = parts.path.partition("/")
    if not re.fullmatch(SERVICE, service):
        raise ConfigError("a redis+sentinel:// URL ends with the name of the service: …/main")
    own = {name: parts.options.pop(f"sentinel_{name}", "") for name in ("username", "password")}
    server = parts.endpoint(parts.hosts[0], db)
    sentinels = ((host, parts.endpoint(host)) for host in parts.hosts)
    asked = tuple(
        msgspec.structs.replace(sentinel, db=0, port=sentinel.port if _has_port(host) else DEFAULT_SENTINEL_PORT, **own)
        for host, sentinel in sentinels
    )
    return Place(Kind.SENTINEL, server, asked, service)


def _has_port(host: str) -> bool:
    return ":" in host.rpartition("]")[2]
