"""`POST /v1/push`: one push, or a batch (NDJSON); queued, or delivered at once (`direct`).

Rules. The messages of one request are one batch, published and routed in its order, however many lines. A direct
push is answered with what became of it for each client; a transient failure is tried again for
DIRECT_RETRY_S only, because a sender waits. Where the registry is away and a target is not connected to
this very worker, nothing is sent and the answer is 503; it is 503, too, where nobody can say of some target whether it
is connected, and then it tells which. `all` goes to every live worker of this region;
its answer is counts, and a worker that could not be asked is counted as unreachable: the same push again,
with the same id, reaches only the rest. Outcomes are counted as they come, also for a sender that has left.
A large request is worked off in slices of some milliseconds, and everybody else has a turn between two of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from zpush.errors import MalformedMessage, PeerUnreachable, RegistryUnavailable, ZpushError
from zpush.protocol.message import Message, Outcome, Target
from zpush.protocol.push import PushRequest, TooLarge, error_body, parse_batch, parse_push, queued_body
from zpush.server.api_context import RETRY_AFTER, ApiContext, ApiError, encode_json, fault, in_time
from zpush.server.direct import UNKNOWN, Copy, DirectPushes, direct_deadline_s
from zpush.server.http_message import JSON, NDJSON, HttpRequest, HttpResponse

REPAIR_POLL_S = 0.2
MAX_TARGETS = 100_000  # clients named by one request
BATCH_BYTES = 16 * 1024 * 1024
SLICE = 250  # pushes, or clients of one push, for which something is done in one turn of the loop: some 2 ms
_OUT_OF_REACH = "the registry is away and not all targets are connected here; nothing was sent"

_LABELS = {int(o): o.label for o in Outcome}
_CLIENT, _USER, _ALL = Target  # names of the module's own: looking an enum's member up costs 50 ns

T = TypeVar("T")
R = TypeVar("R")
Answer = tuple[int, bytes]  # a status, and the JSON: a push's whole answer, or a batch's line


class _Outcome(msgspec.Struct, gc=False):
    client: str
    outcome: str


class _Outcomes(msgspec.Struct, gc=False):
    """What the sender of a direct push is told."""

    id: str
    outcomes: list[_Outcome]


class PushApi:
    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._payload_bytes = context.settings.api.push_bytes
        self._max_lines = context.settings.api.batch_lines

    def push(self, request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        """One push."""
        push = parse_push(request.body, _now_ms(), self._payload_bytes)
        if not push.direct:
            return self._one(self._publish([push]))
        if push.target is not _CLIENT or len(push.keys) > SLICE:
            return self._one(self._deliver([push]))
        if not self._reachable(push.keys):
            raise RegistryUnavailable(_OUT_OF_REACH)
        direct = DirectPushes(self._context.tally)
        copies = direct.add(push, push.keys, direct_deadline_s())
        self._context.router.route(copies)
        return direct.then(lambda: _respond(_delivered(push, copies)))

    async def batch(self, request: HttpRequest) -> HttpResponse:
        """A push a line. 200 whatever became of single lines; 503 where queue or registry is away and all failed."""
        lines: list[PushRequest | MalformedMessage] = []
        for part in parse_batch(request.body, _now_ms(), self._max_lines, self._payload_bytes):
            if lines:
                await asyncio.sleep(0)
            lines += part
        queued: list[PushRequest] = []
        direct: list[PushRequest] = []
        targets = 0
        for line in lines:
            if isinstance(line, PushRequest):
                (direct if line.direct else queued).append(line)
                targets += len(line.keys)
        if targets > MAX_TARGETS:
            raise TooLarge(f"a batch names at most {MAX_TARGETS} clients")
        published, delivered = await asyncio.gather(self._publish(queued), self._deliver(direct))
        from_queue, from_delivery = iter(published), iter(delivered)

        def answer(line: PushRequest | MalformedMessage) -> Answer:
            if isinstance(line, MalformedMessage):
                return _refused(line)
            return next(from_delivery if line.direct else from_queue)

        answers = await _in_turns(answer, lines)
        statuses, bodies = zip(*answers, strict=True)
        away = 503 in statuses and not {200, 202}.intersection(statuses)
        content = b"\n".join((*bodies, b""))
        return HttpResponse(503 if away else 200, content, NDJSON, RETRY_AFTER if away else b"")

    async def _one(self, answers: Coroutine[Any, Any, list[Answer]]) -> HttpResponse:
        return _respond((await answers)[0])

    # ---- queued

    async def _publish(self, pushes: Sequence[PushRequest]) -> list[Answer]:
        if not pushes:
            return []
        producer = self._context.producer
        if producer is None:
            error = ApiError(503, "queue_unavailable", "this server has no queue: send direct pushes")
            return [_refused(error) for _ in pushes]
        messages: list[Message] = []
        for push in pushes:
            messages += push.messages() if len(push.keys) <= SLICE else await _in_turns(push.message, push.keys)
        errors = iter(await producer.publish(messages))
        return await _in_turns(lambda push: self._published(push, [next(errors) for _ in push.keys]), pushes)

    def _published(self, push: PushRequest, errors: Sequence[Exception | None]) -> Answer:
        taken = errors.count(None)
        if taken:
            self._context.row.add(f"published_{push.priority.label}", taken)
        if taken == len(errors):
            return 202, queued_body(push.id)
        refused = {key: error for key, error in zip(push.keys, errors, strict=True) if error is not None}
        first = next(iter(refused.values()))
        if not isinstance(first, ZpushError):
            raise first
        return _refused(first) if not taken else _partly_refused(push, first, list(refused))

    # ---- direct

    async def _deliver(self, pushes: Sequence[PushRequest]) -> list[Answer]:
        """Users are resolved first, all at once; then everything is routed in one batch."""
        if not pushes:
            return []
        devices = await self._devices({push.keys[0] for push in pushes if push.target is _USER})
        direct, deadline_s = DirectPushes(self._context.tally), direct_deadline_s()
        prepared = await _in_turns(lambda push: self._prepare(push, devices, direct, deadline_s), pushes)
        for start in range(0, len(direct.copies), SLICE):
            if start:
                await asyncio.sleep(0)
            self._context.router.route(direct.copies[start : start + SLICE])
        await direct.then(lambda: None)
        fates = [await each if isinstance(each, asyncio.Future) else each for each in prepared]
        return await _in_turns(_told, list(zip(pushes, fates, strict=True)))

    def _prepare(
        self, push: PushRequest, devices: dict[str, list[str] | ZpushError], direct: DirectPushes, deadline_s: float
    ) -> list[Copy] | Answer | asyncio.Future[Answer]:
        """The copies to be routed, or the answer to a push that has none."""
        if push.target is _ALL:
            return asyncio.ensure_future(self._broadcast(push))
        clients = push.keys if push.target is _CLIENT else devices[push.keys[0]]
        if isinstance(clients, ZpushError):
            return _refused(clients)
        if not clients:
            self._context.tally.count(push.priority, False, Outcome.OFFLINE)
            nobody = [{"user": push.keys[0], "outcome": Outcome.OFFLINE.label}]
            return 200, encode_json({"id": push.id, "outcomes": nobody})
        if not self._reachable(clients):
            return _refused(RegistryUnavailable(_OUT_OF_REACH))
        return direct.add(push, clients, deadline_s)

    async def _devices(self, users: Iterable[str]) -> dict[str, list[str] | ZpushError]:
        names = list(users)
        asked = await _in_turns(lambda name: asyncio.ensure_future(self._devices_of(name)), names)
        found = await asyncio.gather(*asked, return_exceptions=True)
        devices: dict[str, list[str] | ZpushError] = {}
        for name, each in zip(names, found, strict=True):
            if isinstance(each, BaseException) and not isinstance(each, ZpushError):
                raise each
            devices[name] = each
        return devices

    async def _devices_of(self, user: str) -> list[str]:
        """A user's clients. None while leases may be missing means: not yet, and in the end RegistryUnavailable."""
        deadline_s = direct_deadline_s()
        while True:
            clients, certain = await self._context.router.devices(user)
            if clients or certain:
                return clients
            if asyncio.get_running_loop().time() > deadline_s:
                raise RegistryUnavailable(UNKNOWN)
            await asyncio.sleep(REPAIR_POLL_S)

    async def _broadcast(self, push: PushRequest) -> Answer:
        """To every live worker of this region. The registry is asked first: nothing is sent where it is away."""
        context = self._context
        try:
            nodes = await in_time(context.registry.nodes())
        except RegistryUnavailable as e:
            return _refused(e)
        region = context.settings.peers.region
        others = [node for node in nodes.values() if node.region == region and node.id != context.node_id]
        message = push.messages()[0]
        results = await asyncio.gather(
            context.broadcasts.send(push.id, push.payload, push.kind),
            *(context.peers.broadcast(node, message) for node in others),
            return_exceptions=True,
        )
        counts: Counter[int] = Counter()
        unreachable = 0
        for result in results:
            if isinstance(result, PeerUnreachable):
                unreachable += 1
            elif isinstance(result, BaseException):
                raise result
            else:
                counts.update(result)
        context.tally.broadcast(push.priority, False, counts)
        by_label = {_LABELS[outcome]: amount for outcome, amount in sorted(counts.items())}
        return 200, encode_json({"id": push.id, "counts": by_label, "unreachable": unreachable})

    def _reachable(self, clients: Sequence[str]) -> bool:
        """Every one of them, even while the registry is away."""
        return self._context.registry.up or all(map(self._context.local.holds, clients))


async def _in_turns(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """What it makes of each, in order; after every SLICE of them everybody else has a turn."""
    made: list[R] = []
    for start in range(0, len(items), SLICE):
        if start:
            await asyncio.sleep(0)
        made += map(work, items[start : start + SLICE])
    return made


def _told(push_and_fate: tuple[PushRequest, list[Copy] | Answer]) -> Answer:
    push, fate = push_and_fate
    return _delivered(push, fate) if isinstance(fate, list) else fate


def _delivered(push: PushRequest, copies: Sequence[Copy]) -> Answer:
    outcomes = [_Outcome(copy.client_id, _LABELS[copy.outcome]) for copy in copies if copy.outcome]
    if len(outcomes) == len(copies):
        return 200, encode_json(_Outcomes(push.id, outcomes))
    status, code, field = fault(RegistryUnavailable(UNKNOWN))
    what = {"code": code, "message": UNKNOWN, "field": field}
    refused = [copy.client_id for copy in copies if not copy.outcome]
    return status, encode_json({"error": what, "id": push.id, "refused": refused, "outcomes": outcomes})


def _refused(error: ZpushError) -> Answer:
    status, code, field = fault(error)
    return status, error_body(code, str(error), field)


def _partly_refused(push: PushRequest, error: ZpushError, refused: list[str]) -> Answer:
    """Some of several clients' messages were taken: the answer names those that were not."""
    status, code, field = fault(error)
    what = {"code": code, "message": f"{len(refused)} of {len(push.keys)} were not queued: {error}", "field": field}
    return status, encode_json({"error": what, "id": push.id, "refused": refused})


def _respond(answer: Answer) -> HttpResponse:
    status, body = answer
    return HttpResponse(status, body, JSON, RETRY_AFTER if status == 503 else b"")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
