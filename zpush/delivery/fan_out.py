"""Messages for more than one client: a user's devices, or everybody.

Rules. A user's messages of one priority are expanded one after the other, so each device gets them in order.
While leases may be missing that should be there (a node repairs them, or this process has just got the
registry back), a user's devices are looked up again until the message's end: those found first have their message
already. `all` goes to every live node of the region; a node that cannot be reached is tried for `retry_s` or until its
death, and knows by the id what it has sent before. Who is to get it may never become known: then the message is
EXPIRED at its end, and so is what expires before its broadcast's turn comes. Neither kind holds up any other record.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator

from zpush._fast.work import Work
from zpush.delivery.peers import Peers
from zpush.delivery.router import BACKOFF_S, Router
from zpush.errors import PeerUnreachable, RegistryUnavailable
from zpush.protocol.message import Outcome, Priority
from zpush.registry.base import Node, Registry
from zpush.tasks import Tasks

BROADCASTS = 16  # at a time and priority; each is a pass over all connections of every worker
REGISTRY_TIMEOUT_S = 2.0
_log = logging.getLogger("zpush.processor")


class FanOut:
    def __init__(self, registry: Registry, peers: Peers, router: Router, region: str, retry_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._registry = registry
        self._peers = peers
        self._router = router
        self._region = region
        self.retry_s = retry_s
        self._users: dict[tuple[Priority, str], deque[Work]] = {}
        self._turns = {priority: asyncio.Semaphore(BROADCASTS) for priority in Priority}
        self._tasks = Tasks(_log)

    def user(self, work: Work) -> None:
        key = work.record.priority, work.record.message.key
        line = self._users.get(key)
        if line is None:
            self._users[key] = deque([work])
            self._tasks.spawn(self._expand_line(key))
        else:
            line.append(work)

    def all(self, work: Work) -> None:
        self._tasks.spawn(self._broadcast(work))

    async def stop(self) -> None:
        await self._tasks.cancel()

    # A user's devices

    async def _expand_line(self, key: tuple[Priority, str]) -> None:
        line = self._users[key]
        while line:
            await self._expand(line.popleft())
        del self._users[key]

    async def _expand(self, work: Work) -> None:
        message = work.record.message
        end_s = self._router.end_s(message)
        known: set[str] = set()
        for backoff_s in _backoffs():
            found, sure = await self._devices(message.key)
            fresh = [client_id for client_id in found if client_id not in known]
            known.update(fresh)
            jobs = [work.share(client_id) for client_id in fresh]
            work.left += len(jobs)
            work.shares = [*work.shares, *jobs]
            self._router.route(jobs)
            if sure or self._loop.time() + backoff_s > end_s:
                break
            await asyncio.sleep(backoff_s)
        if known:
            work.release()
        else:
            work.settle(Outcome.OFFLINE if sure else Outcome.EXPIRED, "")

    async def _devices(self, user_id: str) -> tuple[list[str], bool]:
        """(client ids, whether none can be missing)."""
        try:
            return await self._router.devices(user_id)
        except RegistryUnavailable:
            return [], False

    # Everybody

    async def _broadcast(self, work: Work) -> None:
        async with self._turns[work.record.priority]:
            end_s = self._router.end_s(work.record.message)
            nodes = await self._live_nodes(end_s) if self._loop.time() < end_s else None
            if nodes is None:
                work.settle(Outcome.EXPIRED, "")
                return
            deadline_s = min(self._loop.time() + self.retry_s, end_s)
            counts = await asyncio.gather(*(self._broadcast_to(node, work, deadline_s) for node in nodes))
        total: dict[int, int] = {}
        for count in counts:
            for outcome, number in count.items():
                total[outcome] = total.get(outcome, 0) + number
        if not any(total.values()) and not work.record.redelivered:  # else the first reading has counted them
            total = {Outcome.OFFLINE: 1}
        work.settle_all(total)

    async def _live_nodes(self, end_s: float) -> list[Node] | None:
        """None: until then nobody could say. A registry that knows no node at all has lost them, or takes no writes."""
        for backoff_s in _backoffs():
            try:
                async with asyncio.timeout(REGISTRY_TIMEOUT_S):
                    nodes = await self._registry.nodes()  # read now: one that is left out is a whole worker
                    if nodes or await self._registry.whole():
                        return [node for node in nodes.values() if node.region == self._region]
            except (RegistryUnavailable, TimeoutError):
                pass
            if self._loop.time() + backoff_s > end_s:
                break
            await asyncio.sleep(backoff_s)
        return None

    async def _broadcast_to(self, node: Node, work: Work, deadline_s: float) -> dict[int, int]:
        for backoff_s in _backoffs():
            try:
                return await self._peers.broadcast(node, work.record.message)
            except PeerUnreachable as e:
                if e.refused or self._loop.time() + backoff_s > deadline_s:
                    break  # nobody is there any more: its clients are on their way to other workers
                await asyncio.sleep(backoff_s)
        return {}


def _backoffs() -> Iterator[float]:
    yield from BACKOFF_S
    while True:
        yield BACKOFF_S[-1]
