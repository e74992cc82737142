"""Which workers live: a key per node with a short TTL, a list that says where to look, a set of those that repair.

Rules. A node lives as long as its key does; scores of the list only say when to stop looking. A node that renews
its key does so only where the key still is: else others took it for dead meanwhile, or the server has lost everything,
and it has to look at its leases before it says that it is well. Every node is in the list before it holds leases, and
in the set of those that repair before it is listed again: an empty list, or anybody in that set, means that leases may
be missing. So does that no renewal was taken in whole for half a TTL: a server that takes no writes lets the keys of
all nodes run out, and nobody can say there that he repairs. So two EXISTS tell whether a miss is final, however many
nodes there are.

A full server (OOM) takes PEXPIRE and no SET: nodes live on there, as they were.

All these keys have one tag, so one slot of a cluster: what is written in order is carried out in order, and when that
shard is away nothing is known of nodes, rather than half of it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from zpush.config.settings import Registry as Settings
from zpush.registry.answers import Foreign, checked, is_foreign
from zpush.registry.base import Node, NodeState
from zpush.store import Store

FORGET_MS = 60_000  # the list keeps a silent node this much longer than its key: it may be paused, not dead
Command = tuple[str, tuple[Any, ...]]  # the key it goes by, and itself


class NodeDirectory:
    def __init__(self, store: Store, settings: Settings, foreign: Foreign) -> None:
        self._store = store
        self._list = f"{settings.prefix}:{{nodes}}"
        self._node = f"{self._list}:node:"
        self._repairing = f"{self._list}:repairing"
        self._renewed = f"{self._list}:renewed"
        self._ttl_ms = round(settings.node_ttl_s * 1000)
        self._foreign = foreign

    async def announce(self, node: Node) -> None:
        await self._write(*self._state(node), self._key(node), self._entry(node), self._well())

    async def renew(self, node: Node) -> bool:
        """The list comes second, and that all went well last: see whole()."""
        key = self._node + node.id
        extend = key, ("PEXPIRE", key, self._ttl_ms)
        commands = [*self._state(node), self._key(node, "XX"), extend]
        replies = await self._send(commands)
        if replies[-1] == 0:
            return False
        self._check(commands, replies)
        [added] = await self._write(self._entry(node))
        if added == 0:
            await self._write(self._well())
        return bool(added != 1)

    async def withdraw(self, node_id: str) -> None:
        await self._write(
            (self._node + node_id, ("DEL", self._node + node_id)),
            (self._list, ("ZREM", self._list, node_id)),
            (self._repairing, ("SREM", self._repairing, node_id)),
        )

    async def all(self) -> dict[str, Node]:
        [listed] = await self._ask((self._list, ("ZRANGE", self._list, 0, -1, "WITHSCORES")))
        ids = [node_id.decode() for node_id in listed[::2]]
        values = await self._values(ids)
        forget_ms = _now_ms() - FORGET_MS
        gone = [i for i, v, s in zip(ids, values, listed[1::2], strict=True) if v is None and float(s) < forget_ms]
        if gone:
            await self._write((self._list, ("ZREM", self._list, *gone)))
        return self._read_all(ids, values)

    async def find(self, node_ids: Collection[str]) -> dict[str, Node]:
        return self._read_all(node_ids, await self._values(node_ids))

    async def role(self) -> tuple[str, int]:
        """Of the server that holds the list: what it is, and how many replicas it has."""
        [info] = await self._ask((self._list, ("INFO", "replication")))
        fields = dict(line.partition(":")[::2] for line in info.decode(errors="replace").splitlines())
        replicas = fields.get("connected_slaves", "")
        return fields.get("role", ""), int(replicas) if replicas.isdecimal() else 0

    async def whole(self) -> bool:
        there, repairing = await self._ask(
            (self._list, ("EXISTS", self._list, self._renewed)), (self._repairing, ("EXISTS", self._repairing))
        )
        return bool(there == 2 and not repairing)

    # Commands

    def _state(self, node: Node) -> list[Command]:
        key = self._repairing
        if node.state is NodeState.REPAIRING:
            return [(key, ("SADD", key, node.id)), (key, ("PEXPIRE", key, self._ttl_ms))]
        return [(key, ("SREM", key, node.id))]

    def _key(self, node: Node, *condition: str) -> Command:
        key = self._node + node.id
        return key, ("SET", key, msgspec.json.encode(node), "PX", self._ttl_ms, *condition)

    def _entry(self, node: Node) -> Command:
        return self._list, ("ZADD", self._list, _now_ms() + self._ttl_ms, node.id)

    def _well(self) -> Command:
        return self._renewed, ("SET", self._renewed, 1, "PX", self._ttl_ms // 2)

    async def _write(self, *commands: Command) -> list[Any]:
        replies = await self._send(commands)
        self._check(commands, replies)
        return replies

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        replies: list[Any] = await self._store.call_many(commands)
        return replies

    def _check(self, commands: Sequence[Command], replies: Sequence[Any]) -> None:
        """Where the list or the set is not ours, nobody is found and nothing is certain until somebody deletes it."""
        for (key, _), reply in zip(commands, replies, strict=True):
            if is_foreign(reply):
                self._foreign.note(key)
            else:
                checked(reply)

    async def _ask(self, *commands: Command) -> list[Any]:
        return [checked(reply) for reply in await self._store.call_many(commands)]

    # Values

    async def _values(self, node_ids: Collection[str]) -> list[bytes | None]:
        if not node_ids:
            return []
        [values] = await self._ask((self._list, ("MGET", *(self._node + node_id for node_id in node_ids))))
        return list(values)

    def _read_all(self, node_ids: Collection[str], values: Sequence[bytes | None]) -> dict[str, Node]:
        read = (self._read(i, value) for i, value in zip(node_ids, values, strict=True) if value is not None)
        return {node.id: node for node in read if node is not None}

    def _read(self, node_id: str, value: bytes) -> Node | None:
        try:
            return msgspec.json.decode(value, type=Node)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._foreign.note(self._node + node_id)
            return None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
