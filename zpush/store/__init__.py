"""The store: pipelined connections to Redis-like servers, behind a URL.

Rules. redis-py reads the URL (endpoint.py); everything per command is hiredis's packer and reader over the
project's own protocol (pipeline.py), because redis-py's asyncio pipelines cost ten times as much. Commands of
one loop turn leave in one write per server. Connections are made and kept in the background (link.py): while one is
away, `reason` says why, and every call that needs it fails at once with Unavailable. Nothing is retried here but
what a server has surely not carried out (a redirect, a forgotten script): after a lost connection nobody
knows, and only the caller knows what to do.

The key says where a command goes. How depends on the URL: one server (standalone.py), the one that Sentinels name
(sentinel.py), or the owner of the key's slot (cluster.py). Callers see no difference but that in a cluster some keys
may be away while others are not.

Reading order: endpoint, url, replies, pipeline, topology, scripts, greeting, link, shard, standalone, sentinel; slots,
routed, cluster_map, cluster; this file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from zpush.store.cluster import Cluster
from zpush.store.greeting import Greeting
from zpush.store.pipeline import Future, pack
from zpush.store.replies import Refusal, ReplyError
from zpush.store.scripts import Script, ScriptCall, call_all
from zpush.store.sentinel import Sentinel
from zpush.store.standalone import Standalone
from zpush.store.topology import Topology
from zpush.store.url import Kind, read_url

__all__ = ["Future", "Refusal", "ReplyError", "Script", "Store"]

REPLY_TIMEOUT_S = 5.0  # half a node TTL: who owns a dead connection has time to say that it lives over a new one
Command = tuple[str | bytes | int | float, ...]
_TOPOLOGIES: dict[Kind, Callable[..., Topology]] = {
    Kind.STANDALONE: Standalone,
    Kind.SENTINEL: Sentinel,
    Kind.CLUSTER: Cluster,
}


class Store:
    """name: what CLIENT LIST shows. reply_timeout_s: longer than any blocking command that will be sent."""

    _loop: asyncio.AbstractEventLoop  # from start() on
    _topology: Topology

    def __init__(
        self,
        url: str,
        *,
        name: str,
        read_replicas: bool = False,
        reply_timeout_s: float = REPLY_TIMEOUT_S,
    ) -> None:
        """ConfigError where the URL is wrong; nothing is connected before start().

        read_replicas: connect to them, too, for mget().
        """
        self._place = read_url(url)
        self._read_replicas = read_replicas
        self._scripts: list[Script] = []
        self._greeting = Greeting(name, self._place.servers, reply_timeout_s, self._scripts)
        self._callbacks: list[Callable[[bool], None]] = []
        self._started = False

    @property
    def where(self) -> str:
        """host:port or the socket's path, several with commas between them; for logs."""
        return self._place.where

    @property
    def up(self) -> bool:
        """Commands are taken; in a cluster, by one shard at least."""
        return self._started and self._topology.up

    @property
    def reason(self) -> str:
        """Why it is not up, or what else is wrong: one shard of several may be away. "" where all is well."""
        return self._topology.reason if self._started else "not started"

    @property
    def shard_tags(self) -> Sequence[str]:
        """For each shard of a cluster one hash tag whose keys are there; none where one server has all keys."""
        return self._topology.shard_tags

    async def start(self) -> None:
        """Returns after the first attempt, some seconds at most: look at `up`. A server that is away is tried on."""
        self._loop = asyncio.get_running_loop()
        make = _TOPOLOGIES[self._place.kind]
        self._topology = make(self._place, self._greeting, self._tell, read_replicas=self._read_replicas)
        self._started = True
        await self._topology.start()

    async def stop(self) -> None:
        """What was called before is still sent; who waits for a reply gets Unavailable."""
        if self._started:
            await self._topology.stop()

    def on_connect(self, callback: Callable[[bool], None]) -> None:
        """callback(changed) after each connect to a primary, the first one too.

        changed: data may be lost. It is another server, has another role, or was replaced in its cluster.
        """
        self._callbacks.append(callback)

    def _tell(self, changed: bool) -> None:
        for callback in self._callbacks:  # through the loop: one that fails is reported there and stops nothing here
            self._loop.call_soon(callback, changed)

    def call(self, key: str | bytes, *command: str | bytes | float) -> Future:
        """One command; key says where to. Fails with ReplyError, or Unavailable where no reply will come."""
        future = self._loop.create_future()
        self._topology.send(key, pack(command), future)
        return future

    def call_many(self, commands: Sequence[tuple[str | bytes, Command]]) -> Future:
        """(key, command) pairs: a list of replies in order. Never fails: errors are values in the list."""
        keys = (key for key, _ in commands)
        return self._topology.send_many(keys, [pack(command) for _, command in commands])

    def script(self, source: str) -> Script:
        """Lua over one key, loaded at each connect; make all of them before start()."""
        script = Script(source)
        self._scripts.append(script)
        return script

    def eval(self, script: Script, key: str | bytes, *args: str | bytes | float) -> Future:
        """EVALSHA; where the server has forgotten the script the call is repeated with it."""
        topology, future = self._topology, self._loop.create_future()
        topology.send(key, script.pack(key, args), ScriptCall(topology, future, script, key, args))
        return future

    async def eval_many(self, script: Script, calls: Sequence[Command]) -> list[Any]:
        """(key, *args) tuples: a list of replies in order, errors as values."""
        return await call_all(self._topology, script, calls)

    def mget(self, keys: Sequence[str | bytes], *, replica: bool = False) -> Coroutine[Any, Any, list[Any]]:
        """Values in the order of the keys, None also where a key holds no string; errors as values.

        replica: what a replica says may be old; it is asked where there is one (see read_replicas).
        """
        return self._topology.get_many(keys, replica=replica)
