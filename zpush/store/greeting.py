"""How a connection begins: who we are, who answers, and the scripts; or one question and its answer.

Rules. Everything goes out in one write, the first refusal is the reason. A connection that is to be kept ends its
greeting with a PING, so that a server which loads its data is not used. What a server says of itself must fit the
URL: a node of a cluster behind redis:// would refuse two keys of three.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from zpush.errors import Unavailable
from zpush.store.endpoint import Endpoint
from zpush.store.pipeline import Pipeline
from zpush.store.scripts import Script
from zpush.store.url import Kind

ASK_TIMEOUT_S = 1.0
_REMEDIES = {
    Kind.STANDALONE: "is a standalone server; its URL begins with redis://",
    Kind.CLUSTER: "is a node of a cluster; its URL begins with redis+cluster://",
    Kind.SENTINEL: "is a Sentinel; its URL begins with redis+sentinel:// and ends with the name of the service",
}


class Identity(msgspec.Struct, frozen=True):
    """Whose data this is: where any of these differs, writes may have been lost.

    A restart changes the run id. The replication id changes with each promotion, also with those between two looks.
    """

    run_id: str
    role: str
    replication_id: str


class Greeting:
    """The same for every connection of a store that is kept. kind: how its data servers run."""

    def __init__(self, name: str, kind: Kind, reply_timeout_s: float, scripts: Iterable[Script]) -> None:
        self.name = name
        self.reply_timeout_s = reply_timeout_s
        self._kind = kind
        self._scripts = scripts

    async def connect(self, endpoint: Endpoint, *, replica: bool = False) -> tuple[Pipeline, Identity]:
        """A pipeline, and who is at its other end. OSError, Unavailable or ReplyError says why there is none."""
        pipeline = await endpoint.dial(lambda: Pipeline(endpoint.where, self.reply_timeout_s))
        try:
            return pipeline, await self._greet(pipeline, endpoint, replica)
        except BaseException:
            pipeline.abort("the greeting failed")
            raise

    async def _greet(self, pipeline: Pipeline, endpoint: Endpoint, replica: bool) -> Identity:
        first = [*_login(endpoint), ("CLIENT", "SETNAME", self.name), ("INFO", "server"), ("INFO", "replication")]
        then: list[tuple[str, ...]] = [("SCRIPT", "LOAD", script.source) for script in self._scripts]
        if replica and self._kind is Kind.CLUSTER:
            then.append(("READONLY",))
        replies = await pipeline.call_many([*first, *then, ("PING",)])
        _raise_first(replies[: len(first)])
        server, replication = replies[len(first) - 2 : len(first)]
        _check_kind(server, self._kind)
        _raise_first(replies)
        if replica and _field(replication, b"master_link_status") == "down":
            raise Unavailable("is a replica that has lost its primary")
        return Identity(_field(server, b"run_id"), _field(replication, b"role"), _field(replication, b"master_replid"))


async def ask(endpoint: Endpoint, kind: Kind, *commands: tuple[str, ...]) -> list[Any]:
    """Replies over a connection of their own, within a second; the same exceptions."""
    pipeline = await endpoint.dial(lambda: Pipeline(endpoint.where, ASK_TIMEOUT_S))
    first = [*_login(endpoint), ("INFO", "server")]
    try:
        replies: list[Any] = await pipeline.call_many([*first, *commands])
    finally:
        pipeline.abort("has answered")
    _raise_first(replies[: len(first)])
    _check_kind(replies[len(first) - 1], kind)
    _raise_first(replies)
    return replies[len(first) :]


def _login(endpoint: Endpoint) -> list[tuple[str, ...]]:
    commands: list[tuple[str, ...]] = []
    if endpoint.password:
        commands.append(("AUTH", *filter(None, (endpoint.username, endpoint.password))))
    if endpoint.db:
        commands.append(("SELECT", str(endpoint.db)))
    return commands


def _raise_first(replies: Sequence[Any]) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


def _check_kind(server: Any, wanted: Kind) -> None:
    found = _field(server, b"server_mode") or _field(server, b"redis_mode")  # Valkey's word, and Redis's
    if found in _REMEDIES and found != wanted:
        raise Unavailable(_REMEDIES[Kind(found)])


def _field(info: Any, name: bytes) -> str:
    """A field of an INFO reply; "" where the server has none such, or answers with something else."""
    for line in info.splitlines() if isinstance(info, bytes) else ():
        if line.startswith(name + b":"):
            return line[len(name) + 1 :].decode(errors="replace")
    return ""
