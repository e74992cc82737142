"""Which clients a user has: one sorted set a user, client id → expiry (Unix ms).

Rules. It only says where to look, the leases decide. An entry is written with each lease and leaves when it has
expired, by its score: no end of a connection touches it, so an old one cannot remove a newer entry. Scores are the
server's time, taken there (enter.lua, entered.lua): a box whose clock is wrong must not expire the devices of others.
A set holds `user_devices` entries at most, those that expire last; so one user cannot fill the server, nor make a push
to himself endless.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from zpush.config.settings import Registry as Settings
from zpush.errors import RegistryUnavailable, Unavailable
from zpush.registry.answers import Foreign, checked, is_foreign
from zpush.registry.base import Lease
from zpush.store import Script, Store

_log = logging.getLogger("zpush.registry")


class UserIndex:
    """crowded: entries that left because there were user_devices newer ones."""

    def __init__(self, store: Store, enter: Script, entered: Script, settings: Settings, foreign: Foreign) -> None:
        self._store = store
        self._enter = enter
        self._entered = entered
        self._prefix = f"{settings.prefix}:user:"
        self._lease_ttl_ms = round(settings.lease_ttl_s * 1000)
        self._most = settings.user_devices
        self._foreign = foreign
        self.crowded = 0

    async def with_entries(self, leases: Sequence[Lease], written: Coroutine[Any, Any, list[Any]]) -> list[Any]:
        """What writing the leases is answered, or an error where the user's set is. Both leave in one write."""
        calls = [self._entry(lease.user_id, [lease.client_id]) for lease in leases if lease.user_id]
        if not calls:
            return await written
        replies, entered = await asyncio.gather(written, self._store.eval_many(self._enter, calls))
        entries = iter(entered)
        return [
            self._with_entry(reply, next(entries)) if lease.user_id else reply
            for lease, reply in zip(leases, replies, strict=True)
        ]

    def _with_entry(self, reply: Any, entered: Any) -> Any:
        try:
            self._note(entered)
        except RegistryUnavailable as e:
            return e
        return reply

    async def renewed(self, leases: Sequence[Lease], extended: Coroutine[Any, Any, list[Any]]) -> list[Any]:
        """What extending the leases is answered; both leave in one write.

        A refusal here (a full server) is nobody's harm yet: entries last for two renewals.
        """
        by_user: dict[str, list[str]] = {}
        for lease in leases:
            if lease.user_id:
                by_user.setdefault(lease.user_id, []).append(lease.client_id)
        if not by_user:
            return await extended
        calls = [self._entry(user_id, client_ids) for user_id, client_ids in by_user.items()]
        replies, entered = await asyncio.gather(extended, self._store.eval_many(self._enter, calls))
        for reply in entered:
            if not isinstance(reply, Unavailable):
                self._note(reply)
        return replies

    async def clients(self, user_id: str) -> list[str]:
        key = self._prefix + user_id
        [found] = await self._store.eval_many(self._entered, [(key,)])
        if is_foreign(found):
            self._foreign.note(key)
            return []
        return [client_id.decode() for client_id in checked(found)]

    def _entry(self, user_id: str, client_ids: Sequence[str]) -> tuple[Any, ...]:
        """The script's arguments: these are the user's clients until a lease TTL from now."""
        return self._prefix + user_id, self._lease_ttl_ms, self._most, *client_ids

    def _note(self, reply: Any) -> None:
        if is_foreign(reply):
            self._foreign.note(self._prefix + "…")
            return
        left_out: int = checked(reply)
        if left_out and not self.crowded:
            _log.warning("a user has more than %d clients (registry.user_devices): pushes reach the newest", self._most)
        self.crowded += left_out
