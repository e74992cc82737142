"""Lua on the server: called by digest, in full where the server has forgotten it.

Rules. Each script touches one key. They are loaded at each connect; a call that finds no script is repeated once as
EVAL, which also brings it back. Calls keep their order among those that are repeated together; what decides about
order is in the scripts' arguments, never in when they arrive.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from zpush.store.pipeline import Future, pack, settle
from zpush.store.replies import ReplyError
from zpush.store.topology import Topology


class Script:
    """source: Lua for EVALSHA with one key."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def pack(self, key: str | bytes, args: Sequence[Any]) -> bytes:
        return pack(("EVALSHA", self.sha, 1, key, *args))

    def pack_whole(self, key: str | bytes, args: Sequence[Any]) -> bytes:
        return pack(("EVAL", self.source, 1, key, *args))


def forgotten(reply: Any) -> bool:
    return isinstance(reply, ReplyError) and reply.code == "NOSCRIPT"


class ScriptCall:
    """Stands in the pipeline for one call."""

    __slots__ = ("_args", "_future", "_key", "_script", "_topology")

    def __init__(self, topology: Topology, future: Future, script: Script, key: str | bytes, args: Sequence[Any]):
        self._topology = topology
        self._future = future
        self._script = script
        self._key = key
        self._args = args

    def take(self, reply: Any) -> None:
        if forgotten(reply):
            self._topology.send(self._key, self._script.pack_whole(self._key, self._args), self._future)
        else:
            settle(self._future, reply)


async def call_all(topology: Topology, script: Script, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Every call's reply, in order; see Batch for errors. calls: (key, *args) each."""
    replies: list[Any] = await topology.send_many(
        (call[0] for call in calls), [script.pack(key, args) for key, *args in calls]
    )
    again = [i for i, reply in enumerate(replies) if forgotten(reply)]
    if again:
        repeated = [calls[i] for i in again]
        answers = await topology.send_many(
            (call[0] for call in repeated), [script.pack_whole(key, args) for key, *args in repeated]
        )
        for i, reply in zip(again, answers, strict=True):
            replies[i] = reply
    return replies
