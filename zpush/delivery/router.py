"""Who gets a message and how: look-up, grouping by owner, delivery, retry.

Rules. Every job is settled exactly once. A client's messages of one priority keep their order: they stand in one line,
and a line is in one step at a time (busy): waiting for its turn, in a look-up, in flight to an owner, or parked. What
comes meanwhile stands behind, so nothing overtakes. Nothing is done per message but bookkeeping, and that in C
(_fast/lines.pyx, batch.pyx): the lines of one turn share a look-up, an owner's share of them a batch, a batch its
callbacks. This worker's own table comes before the registry. What is known to be nowhere is OFFLINE at once. An owner
that cannot be reached parks the client until the job's deadline. Where nobody can say whether the client is connected
(the registry is away, or leases may be missing) it waits until the message's own end, and is never OFFLINE.
docs/delivery.md draws the states.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from math import inf
from operator import attrgetter

from zpush._fast.job import Job
from zpush._fast.lines import Line, Lines, asked, by_owner
from zpush.delivery.base import Local
from zpush.delivery.batch import BATCHES, NOT_HERE, PENDING
from zpush.delivery.parking import Lot
from zpush.delivery.peer_frames import MAX_FRAME_BYTES
from zpush.delivery.peers import Peers
from zpush.delivery.whereabouts import Whereabouts
from zpush.errors import RegistryUnavailable
from zpush.protocol.message import Message, Outcome, Priority
from zpush.registry.base import Lease, Node, Registry
from zpush.tasks import Tasks

BACKOFF_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0)  # the last one again and again
RECHECK_S = 0.05  # a client that moved has its new lease by then
ROUND_JOBS = 500  # messages that share a turn and a look-up: about 4 ms where they are sends to own clients
MAX_PAYLOAD_BYTES = MAX_FRAME_BYTES - 4096  # ids and headers beside it in a peer's frame
_priority = attrgetter("message.priority")
_log = logging.getLogger("zpush.router")


class Router:
    """local: this worker's own clients, or None in a process that holds none.

    For jobs without a deadline: retry_s is how long an unreachable owner is tried, max_age_s how long after it was
    queued a message without TTL is over.
    """

    def __init__(
        self,
        registry: Registry,
        peers: Peers,
        local: Local | None,
        node_id: str,
        region: str,
        retry_s: float,
        node_ttl_s: float,
        backoff_s: Sequence[float] = BACKOFF_S,
        recheck_s: float = RECHECK_S,
        on_dead: Callable[[Lease], None] | None = None,
        max_age_s: float = inf,
    ) -> None:
        """on_dead(lease): its node was found dead, and it is removed. None: leases of dead nodes are left."""
        self._loop = asyncio.get_running_loop()
        self._peers = peers
        self._local = local
        self._node_id = node_id
        self._region = region
        self._registry = registry
        self._backoff_s = backoff_s
        self._recheck_s = recheck_s
        self._on_dead = on_dead
        self._where = Whereabouts(registry, node_ttl_s)
        self._lot = Lot(self._try_again, self._evicted)
        self._lines = Lines(
            Priority,
            MAX_PAYLOAD_BYTES,
            Outcome.EXPIRED,
            Outcome.REJECTED,
            retry_s,
            max_age_s,
            self._have_a_round,
            self._lot.join,
            self._over,
        )
        self._round_due = False
        # For own clients, perhaps: tried in the next round, before any line.
        self._here: list[Job] | None = None if local is None else []
        self._tasks = Tasks(_log)
        self._spawn = self._tasks.spawn

    # ---- what it is for

    def route(self, jobs: Iterable[Job]) -> None:
        """Takes jobs in order; each one's settle() is called once, possibly from within this call."""
        self._lines.take_in(jobs, self._loop.time(), self._here, ROUND_JOBS)
        if self._here:
            self._have_a_round()

    def forget(self, jobs: Iterable[Job]) -> list[Job]:
        """Takes back jobs that are not with an owner yet; these are never settled. Returns them."""
        asked: dict[Line, set[Job]] = {}
        for job in jobs:
            line = self._lines.get(job.message.priority, job.client_id)
            if line is not None:
                asked.setdefault(line, set()).add(job)
        forgotten: list[Job] = []
        for line, wanted in asked.items():
            taken = [job for job in line.jobs if job in wanted]
            line.jobs = [job for job in line.jobs if job not in wanted]
            forgotten += taken
            if line.parked:
                self._lot.left(line, taken)
                if not line.jobs:
                    self._lines.rest(line)
            # else whoever holds the line finds it shorter, or empty
        return forgotten

    async def locate(self, client_id: str) -> tuple[Lease, Node] | None:
        """The client's lease and its live owner; None where there is none for sure. Raises RegistryUnavailable."""
        return await self._where.locate(client_id)

    async def locate_user(self, user_id: str) -> list[tuple[Lease, Node]]:
        """The same for all of a user's clients."""
        return await self._where.locate_user(user_id)

    async def node(self, node_id: str) -> Node | None:
        """The node, if it lives and is of this region. Raises RegistryUnavailable."""
        node = await self._where.find(node_id)
        return node if node is not None and node.region == self._region else None

    async def is_dead(self, node_id: str) -> bool:
        """It lives in no region. Raises RegistryUnavailable."""
        return await self._where.find(node_id) is None

    async def devices(self, user_id: str) -> tuple[list[str], bool]:
        """The user's connected clients, and True; or False, and all that may be, while leases may be missing.

        Raises RegistryUnavailable.
        """
        return await self._where.devices(user_id)

    @property
    def parked(self) -> int:
        """Messages that wait out a transient failure."""
        return self._lot.jobs

    @property
    def holds_back(self) -> bool:
        """What is routed now would only wait here, or soon have no room."""
        return not self._registry.up or self._lot.half_full

    def use(self, retry_s: float, max_age_s: float) -> None:
        """For what comes from now on."""
        self._lines.retry_s, self._lines.max_age_s = retry_s, max_age_s

    def end_s(self, message: Message) -> float:
        """loop.time() at which a queued message is over, by its TTL or its age."""
        return self._lines.end_s(message.expires_ms, message.queued_ms, self._loop.time())

    async def stop(self) -> None:
        """Forgets everything that is not settled yet. The peers and the registry are the caller's to stop."""
        self._lot.stop()
        self._here = None if self._local is None else []
        self._lines.clear()
        await self._tasks.cancel()

    # ---- lines and rounds

    def _deliver_here(self) -> int:
        """Straight to this worker's own clients: nobody stands in line whose outcome is known at once. How many."""
        jobs = self._here
        if self._local is None or not jobs:
            return 0
        self._here = []
        jobs.sort(key=_priority)
        batch = BATCHES.of(jobs, self, self._node_id)
        outcomes = self._local.deliver(batch.entries, batch.settled)
        if NOT_HERE in outcomes or PENDING in outcomes:  # first: settling may route more for the same client
            now_s = self._loop.time()
            for index, (job, outcome) in enumerate(zip(jobs, outcomes, strict=True)):
                if outcome == NOT_HERE:
                    self._lines.stand_in(job, now_s)
                elif outcome == PENDING:
                    batch.wait(index, self._lines.of(job), job)
        BATCHES.conclude(jobs, outcomes, self._node_id)
        return len(jobs)

    def _have_a_round(self) -> None:
        if not self._round_due:
            self._round_due = True
            self._loop.call_soon(self._round)

    def _over(self, line: Line) -> None:
        line.tries = 0
        line.rechecked = False
        self._lot.leave(line)

    def _round(self) -> None:
        """Starts the next lines, high before low. Bounded: deliveries to own clients are sends."""
        self._round_due = False
        room = ROUND_JOBS - self._deliver_here()
        lines = self._lines.next(room)
        if self._lines.waiting:
            self._have_a_round()
        away = self._deliver_own(lines)
        if away:
            self._spawn(self._find(away))

    def _deliver_own(self, lines: list[Line]) -> list[Line]:
        """Sends to this worker's own clients; returns the other lines."""
        local = self._local
        if local is None:
            return lines
        here: list[Line] = []
        away: list[Line] = []
        for line in lines:
            (here if local.holds(line.client_id) else away).append(line)
        for line in here:
            line.lease = None  # an earlier step's
        if here:
            self._send(self._node_id, None, here)
        return away

    # ---- finding owners

    async def _find(self, lines: list[Line]) -> None:
        """Looks lines up and sends each to its owner."""
        try:
            client_ids, again = asked(lines)
            leases = await self._where.look_up(client_ids, fresh=again)
        except RegistryUnavailable:
            self._park(lines, blind=True)
            return
        owned, missed, away = by_owner(lines, leases)
        for (node_id, _), group in owned.items():
            if self._is_dead(node_id):
                missed += group
            else:
                self._send(node_id, self._where.node(node_id), group)
        if missed:
            self._miss(missed)
        if away:
            self._park(away, blind=True)

    # ---- sending

    def _send(self, node_id: str, node: Node | None, lines: list[Line]) -> None:
        """To one owner: this worker's own table, or a peer. All lines of a peer have one priority."""
        free, held_up = self._lines.sendable(lines, node_id)
        if held_up:
            self._park(held_up)
        if node_id == self._node_id:
            self._send_own(free)
        elif node is not None and node.region != self._region:
            self._give_up(free)
        elif node is not None:
            for batch in BATCHES.fill(free, self, node_id):
                self._peers.deliver(node, free[0].priority, batch.entries, batch)

    def _send_own(self, lines: list[Line]) -> None:
        if self._local is None:
            self.not_here(lines)  # a lease names this process, which holds no clients
            return
        for batch in BATCHES.fill(lines, self, self._node_id):
            batch.answered(self._local.deliver(batch.entries, batch.settled))

    # ---- coming back (batch.Steps)

    def moved(self, lines: list[Line]) -> None:
        self._lines.moved(lines)

    def not_here(self, lines: list[Line]) -> None:
        """A stale route: delete the lease if unchanged, look once more; the second time it is a miss."""
        again = [line for line in lines if line.rechecked]
        if again:
            self._miss(again)
        first = [line for line in lines if not line.rechecked]
        if first:
            self._spawn(self._recheck(first))

    def unreachable(self, node_id: str, lines: list[Line], refused: bool) -> None:
        if refused:
            self._spawn(self._bury(node_id, lines))
        else:
            self._where.doubt(node_id)
            self._park(lines)

    def drained(self, line: Line) -> None:
        if not line.busy:
            self._lines.rest(line)

    async def _recheck(self, lines: list[Line]) -> None:
        """A lease that has changed meanwhile belongs to a client on the move: that miss does not count."""
        leases = {line.client_id: line.lease for line in lines if line.lease is not None}
        removed = dict(zip(leases, await self._where.remove([*leases.values()]), strict=True))
        away = [line for line in lines if isinstance(removed.get(line.client_id), RegistryUnavailable)]
        self._park(away, blind=True)
        rest = [line for line in lines if line not in away]
        self._park(rest, self._recheck_s)
        for line in rest:
            line.rechecked = removed.get(line.client_id, True) is True

    async def _bury(self, node_id: str, lines: list[Line]) -> None:
        """The incarnation is dead, now: everybody may know it. Its clients are looked up at once, the first time."""
        try:
            if await self._where.bury(node_id):
                self._peers.forget(node_id)
        except RegistryUnavailable:
            self._park(lines, blind=True)
            return
        fresh = [line for line in lines if not line.tries]
        self._park([line for line in lines if line.tries])
        for line in fresh:
            line.tries = 1
            self._lines.rest(line)

    # ---- ends and retries

    def _miss(self, lines: list[Line]) -> None:
        """No live owner: OFFLINE, or transient while leases may be missing that should be there."""
        if not self._where.certain:
            self._park(lines, blind=True)
            return
        dead = [line.lease for line in lines if line.lease is not None and self._is_dead(line.lease.node_id)]
        if dead and self._on_dead is not None:
            self._spawn(self._expire(dead, self._on_dead))
        self._give_up(lines)

    def _is_dead(self, node_id: str) -> bool:
        return node_id != self._node_id and self._where.node(node_id) is None

    async def _expire(self, leases: list[Lease], on_dead: Callable[[Lease], None]) -> None:
        """Who removes the lease of a dead node tells; and who does not know whether he did: rather twice than never."""
        for lease, removed in zip(leases, await self._where.remove(leases), strict=True):
            if removed:
                on_dead(lease)

    def _give_up(self, lines: list[Line]) -> None:
        """OFFLINE for what the look-up was made for; what came later is looked up itself."""
        for line in lines:
            jobs = line.jobs
            line.jobs = [job for job in jobs if job.order > line.seen]
            for job in jobs:
                if job.order <= line.seen:
                    job.settle(Outcome.OFFLINE, "")
            self._over(line)
            self._lines.rest(line)

    def _park(self, lines: Iterable[Line], delay_s: float | None = None, *, blind: bool = False) -> None:
        """blind: nobody can say where these clients are."""
        now_s = self._loop.time()
        for line in lines:
            if line.blind and not blind:
                self._begin_retries(line, now_s)
            line.blind = blind
            self._drop_late(line, now_s)
            if not line.jobs:
                self._lines.rest(line)
                continue
            backoff_s = self._backoff_s[min(line.tries, len(self._backoff_s) - 1)]
            line.tries += 1
            line.rechecked = False
            self._lot.park(line, now_s + (backoff_s if delay_s is None else delay_s))

    def _begin_retries(self, line: Line, now_s: float) -> None:
        """Its owner is known again, and not reached: only from now on that counts."""
        for job in line.jobs:
            job.deadline_s = min(job.end_s, max(job.deadline_s, now_s + self._lines.retry_s))

    def _try_again(self, lines: list[Line]) -> None:
        now_s = self._loop.time()
        for line in lines:
            self._drop_late(line, now_s)
            self._lines.rest(line)

    def _drop_late(self, line: Line, now_s: float) -> None:
        late = [job for job in line.jobs if line.until_s(job) <= now_s]
        if late:
            line.jobs = [job for job in line.jobs if line.until_s(job) > now_s]
            for job in late:
                self._end(line, job, Outcome.EXPIRED)

    def _end(self, line: Line, job: Job, unknown: Outcome) -> None:
        """It waits no longer. unknown: what that is where nobody could say whether the client is connected."""
        if line.blind:
            job.settle_unknown(unknown)
        else:
            job.settle(Outcome.OFFLINE, "")

    def _evicted(self, line: Line, job: Job) -> None:
        self._end(line, job, Outcome.DROPPED)
        if not line.jobs:
            self._lines.rest(line)
