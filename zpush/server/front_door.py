"""The front door: a client's request in, an open connection or a refusal out.

Rules. One road: parse, whose it is, classify, origin, room, authentication, bind, lease, open. The client id leads to
the new connection from bind on, and the answer leaves once the lease is written: whoever sees "open" can be reached.
After IN_TIME_MS it leaves anyway, at once while the registry is known to be away; the lease is then dirty and
written by the keeper. The connection it replaces is closed when the new one is open. No token in a log.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable

import msgspec

from zpush import policy
from zpush._fast.engine import EVENT_STREAM, RAW, V1, Engine
from zpush._fast.frames import encode_frame
from zpush.auth.base import Authenticator, Identity
from zpush.config.settings import Auth, Connections
from zpush.delivery.peers import Peers
from zpush.delivery.presence import Presence
from zpush.delivery.router import Router
from zpush.errors import RegistryUnavailable, Unauthorized
from zpush.protocol import close, handshake
from zpush.protocol.handshake import Refusal, Request, RequestKind
from zpush.protocol.secure_token import SecureTokens
from zpush.registry.base import IN_TIME_MS, Lease, Registration, Registry
from zpush.server.addresses import Proxies
from zpush.server.agreed import Agreed
from zpush.server.leases import LeaseKeeper
from zpush.server.replaced import close_replaced
from zpush.tasks import Tasks, Turn

OPENINGS_LOOKED_AT_S = 0.05
SSE_RETRY_MS = 3000
TEXT = 1  # RFC 6455 §5.2
_log = logging.getLogger("zpush.clients")


class Opening(msgspec.Struct, frozen=True):
    """A client between bind and open."""

    handle: int
    lease: Lease  # as it is asked for: its epoch is the handshake's time
    protocol: int
    head: bytes | None  # what opens the connection; None: it is open and was unknown
    wants_token: bool  # a secure token, as its first message; where it was unknown, as soon as it is not
    token_expires_s: float | None
    replaced: int  # handle of this worker's earlier connection of the client, or 0
    since_s: float  # loop.time()


class FrontDoor:
    """The engine's on_request and on_close."""

    engine: Engine  # set once the engine exists; it needs these callbacks to be made

    def __init__(
        self,
        limits: Connections,
        auth: Auth,
        authenticator: Authenticator,
        secure_tokens: SecureTokens,
        registry: Registry,
        keeper: LeaseKeeper,
        router: Router,
        peers: Peers,
        ready: Callable[[], str],
        rng: random.Random,
        presence: Presence | None = None,
    ) -> None:
        self.set_limits(limits, auth)
        self.authenticator = authenticator
        self._secure_tokens = secure_tokens
        self._registry = registry
        self._keeper = keeper
        self._router = router
        self._peers = peers
        self._ready = ready
        self._rng = rng
        self._presence = presence
        self._openings: dict[int, Opening] = {}  # by handle, oldest first
        self._tasks = Tasks(_log)
        self._calls = Tasks(_log)  # to other workers, which may take their time
        self._arrived: Turn[Opening] = Turn(self._tasks, self._register)
        self._gone: Turn[Lease] = Turn(self._tasks, self._remove)
        self._timer: asyncio.TimerHandle | None = None
        self.agreed = Agreed()
        self.draining = False

    def set_limits(self, limits: Connections, auth: Auth) -> None:
        """For the connections that come from now on."""
        self._limits = limits
        self._auth = auth
        self._origins = handshake.Origins(limits.origins)
        self._proxies = Proxies(limits.trusted_proxies)

    # ---- the engine's calls

    def on_request(self, handle: int, head: bytes, peer: str) -> None:
        origin = b""
        try:
            request = handshake.parse(head, peer)
            if self._proxies:
                resolved = self._proxies.resolve(self.engine, handle, request)
                if resolved is None:
                    return
                request = resolved
            kind = handshake.classify(request)
            if kind is handshake.HTTP:
                self._answer_health(handle, request)
                return
            origin = self._origins.check(request)
            if kind is handshake.PREFLIGHT:
                self.engine.respond(handle, handshake.preflight_response(origin), "http")
                return
            self._check_room()
            if kind is handshake.EVENT_STREAM and _must_stay_away(request):
                self.engine.respond(handle, handshake.http_response(204, b"", origin=origin), "replaced")
                return
            self._authenticate(handle, request, kind, origin)
        except Refusal as refusal:
            self._refuse(handle, head, refusal, origin)

    def on_close(self, handle: int, client_id: bytes, user_id: bytes, epoch: int, code: int, was_open: bool) -> None:
        if was_open:
            lease = Lease(client_id.decode(), self._keeper.node_id, epoch, user_id.decode())
            self._gone.add(lease)
            if self._presence is not None:
                self._presence.disconnected(lease, code)
        # A client that went before it was open is still in _openings: its lease is dealt with once its epoch is known.
        opening = self._openings.get(handle)
        if opening is not None and opening.replaced:
            self.engine.rebind(opening.replaced)

    # ---- admission

    def _check_room(self) -> None:
        result = policy.admission(self.engine.connections - 1, self._limits.max, self.draining)
        if result is not None:
            reason = "this server is being drained" if result == "draining" else "this server is full"
            raise handshake.unavailable(result, reason, policy.retry_after_s(self._rng, 1, 10))

    def _answer_health(self, handle: int, request: Request) -> None:
        reason = self._ready() if request.path == "/readyz" else ""
        response = handshake.http_response(
            503 if reason else 200, (reason or "ok").encode() + b"\n", head_only=request.method == "HEAD"
        )
        self.engine.respond(handle, response, "http")

    def _refuse(self, handle: int, head: bytes, refusal: Refusal, origin: bytes) -> None:
        response = handshake.refusal_response(refusal, origin=origin, head_only=head.startswith(b"HEAD "))
        self.engine.respond(handle, response, refusal.result)

    def _authenticate(self, handle: int, request: Request, kind: RequestKind, origin: bytes) -> None:
        if self._auth.delayed and kind is handshake.WEBSOCKET and self._brings_nothing(request):
            head, protocol = _accept(request)
            self.agreed.note(handle, protocol, _wants_token(request))
            self.engine.open_unknown(handle, head, protocol, math.ceil(self._auth.delayed_timeout_s))
            return
        try:
            identity = self.authenticator.authenticate(request)
        except Unauthorized as e:
            _log.debug("not authenticated: %s", e)
            raise handshake.unauthorized() from None
        if isinstance(identity, Identity):
            self._admit(handle, request, kind, origin, identity)
        else:
            self._tasks.spawn(self._authenticate_later(handle, request, kind, origin, identity))

    def _brings_nothing(self, request: Request) -> bool:
        return handshake.find_token(request, self._auth.cookie.encode(), self._auth.query_token) is None

    async def _authenticate_later(
        self, handle: int, request: Request, kind: RequestKind, origin: bytes, identity: Awaitable[Identity]
    ) -> None:
        try:
            self._admit(handle, request, kind, origin, await identity)
        except Unauthorized as e:
            _log.debug("not authenticated: %s", e)
            self._refuse(handle, b"", handshake.unauthorized(), origin)
        except Refusal as refusal:
            self._refuse(handle, b"", refusal, origin)

    def _admit(self, handle: int, request: Request, kind: RequestKind, origin: bytes, identity: Identity) -> None:
        if kind is handshake.EVENT_STREAM:
            head, protocol = handshake.event_stream_head(origin, SSE_RETRY_MS), EVENT_STREAM
        else:
            head, protocol = _accept(request)
        self._bind(handle, identity, protocol, head, _wants_token(request))

    def admit_unknown(self, handle: int, identity: Identity) -> None:
        """A connection that was opened unknown has said who it is. It may be gone by now."""
        self._bind(handle, identity, self.agreed.protocol(handle), None, self.agreed.wants_token(handle))

    def _bind(self, handle: int, identity: Identity, protocol: int, head: bytes | None, wants_token: bool) -> None:
        try:
            replaced = self.engine.bind(handle, identity.client_id.encode(), identity.user_id.encode(), protocol)
        except KeyError:
            return  # gone while it was being authenticated
        self.agreed.note(handle, protocol, wants_token)
        now_ms = time.time_ns() // 1_000_000
        held = self.engine.client(replaced)
        if held is not None:
            now_ms = max(now_ms, held[2] + 1)  # the connection that it replaces must not look newer
        self.engine.set_epoch(handle, now_ms)  # from now on, closes that mean an older connection miss it
        opening = Opening(
            handle,
            Lease(identity.client_id, self._keeper.node_id, now_ms, identity.user_id),
            protocol,
            head,
            wants_token,
            identity.expires_s,
            replaced,
            asyncio.get_running_loop().time(),
        )
        self._openings[handle] = opening
        self._arrived.add(opening)
        if self._timer is None:
            self._look_later()

    # ---- the lease, then open

    async def _register(self, arrived: list[Opening]) -> None:
        answers = await self._registry.register_many([opening.lease for opening in arrived])
        held: list[tuple[int, Lease]] = []
        for opening, answer in zip(arrived, answers, strict=True):
            waits = self._openings.pop(opening.handle, None) is not None  # else it was opened without its lease
            if isinstance(answer, Registration):
                self._registered(opening, answer, waits)
                continue
            if waits:
                self._open(opening, opening.lease.epoch, dirty=isinstance(answer, RegistryUnavailable))
            if isinstance(answer, Lease):
                held.append((opening.handle, answer))
        await self._keeper.yield_to(held)

    def _registered(self, opening: Opening, registration: Registration, waits: bool) -> None:
        if waits:
            opened = self._open(opening, registration.epoch, dirty=False)
        else:
            opened = self.engine.is_open(opening.handle)
            self.engine.set_epoch(opening.handle, registration.epoch)
            self.engine.set_dirty(opening.handle, False)
        replaced = registration.replaced
        if not opened:
            self._tasks.spawn(self._give_back(opening, registration))
            return
        self._keeper.written(opening.handle, opening.lease.at_epoch(registration.epoch))
        if replaced is not None and replaced.node_id != self._keeper.node_id:
            on_dead = self._presence.expired if self._presence is not None else None
            self._calls.spawn(close_replaced(replaced, self._router, self._peers, on_dead))  # ours was closed by _open

    def is_opening(self, handle: int) -> bool:
        """Bound, and waiting for its lease."""
        return handle in self._openings

    def close_client(self, client_id: bytes, epoch: int, code: int) -> bool:
        """As the engine's. One that waits for its lease is opened first: it has to hear that it must not come back."""
        handle = self.engine.find(client_id)
        opening = self._openings.get(handle)
        if opening is not None and (not epoch or opening.lease.epoch <= epoch):
            del self._openings[handle]
            self._open(opening, opening.lease.epoch, dirty=False)
        return self.engine.close_client(client_id, epoch, code, close.reason_of(code))

    async def _give_back(self, opening: Opening, registration: Registration) -> None:
        """The client went before it was open: the connection that it would have replaced holds the id again."""
        if opening.replaced and self.engine.rebind(opening.replaced):
            self.engine.set_epoch(opening.replaced, registration.epoch)  # the new lease names this worker, too
            self._keeper.written(opening.replaced, opening.lease.at_epoch(registration.epoch))
            return
        await self._remove([opening.lease.at_epoch(registration.epoch)])
        if registration.replaced is not None and registration.replaced.node_id != self._keeper.node_id:
            try:
                await self._registry.register_late(registration.replaced)
            except RegistryUnavailable:
                pass  # its own renewal finds it missing, and writes it again

    def _open(self, opening: Opening, epoch: int, dirty: bool) -> bool:
        age_s, expires = self.lifetime(opening.lease.epoch / 1000, opening.token_expires_s)
        if opening.head is None:
            opened = self.engine.admit(opening.handle, epoch, age_s, expires)
            if opened and opening.wants_token:
                self.engine.send(opening.handle, TEXT, self._token_message(opening, epoch))
        else:
            head = opening.head + (self._first_message(opening, epoch) if opening.wants_token else b"")
            opened = self.engine.open(opening.handle, head, epoch, age_s, expires)
        if opened and dirty:
            self._keeper.mark_dirty(opening.handle)
        if opened and opening.replaced:
            self.engine.close(opening.replaced, close.REPLACED, close.reason_of(close.REPLACED))
        return opened

    def lifetime(self, now_s: float, token_expires_s: float | None) -> tuple[int, bool]:
        """Seconds until the go-away, and whether it is the token that ends."""
        if self.draining:
            return 1, False  # it was let in before the drain began, and is asked to go with the others
        limits = self._limits
        return policy.lifetime_s(
            self._rng, limits.max_age_s, limits.max_age_jitter_s, now_s, token_expires_s, limits.go_away_grace_s
        )

    def remaining(self, epoch: int, now_s: float, token_expires_s: float | None) -> tuple[int, bool] | None:
        """The same for a connection that is open since `epoch`: a newer token does not make it younger.

        None where it is past its max age, or the worker leaves: it is on its way out whatever it says.
        """
        if self.draining:
            return None
        limits = self._limits
        left_s = limits.max_age_s - (now_s - epoch / 1000) if limits.max_age_s else 0.0
        if limits.max_age_s and left_s <= 0:
            return None
        return policy.lifetime_s(self._rng, left_s, 0.0, now_s, token_expires_s, limits.go_away_grace_s)

    def _first_message(self, opening: Opening, epoch: int) -> bytes:
        if opening.protocol == EVENT_STREAM:
            return b"event: secure_token\ndata: %b\n\n" % self._token(opening, epoch)
        return encode_frame(TEXT, self._token_message(opening, epoch))

    def _token_message(self, opening: Opening, epoch: int) -> bytes:
        return b'{"secure_token":"%b"}' % self._token(opening, epoch)

    def _token(self, opening: Opening, epoch: int) -> bytes:
        return self._secure_tokens.token(opening.lease.client_id, epoch).encode()

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(OPENINGS_LOOKED_AT_S, self._open_overdue)

    def _open_overdue(self) -> None:
        """The registry is slow: clients that waited long enough are opened with an epoch of our own."""
        self._timer = None
        oldest_s = asyncio.get_running_loop().time() - IN_TIME_MS / 1000
        while self._openings:
            opening = next(iter(self._openings.values()))
            if opening.since_s > oldest_s:
                self._look_later()
                return
            del self._openings[opening.handle]
            self._open(opening, opening.lease.epoch, dirty=True)

    async def _remove(self, gone: list[Lease]) -> None:
        await self._registry.remove_many(gone)  # one that stays: a message that follows it finds nobody, and removes it

    async def settle_down(self, timeout_s: float) -> None:
        """Waits for what is under way: removals of leases above all."""
        await self._tasks.wait(timeout_s)
        await self._calls.cancel()


def _accept(request: Request) -> tuple[bytes, int]:
    subprotocol = handshake.negotiate(request)
    return handshake.accept_response(request, subprotocol), V1 if subprotocol == handshake.V1 else RAW


def _wants_token(request: Request) -> bool:
    return request.param("secure_token") == "1"


def _must_stay_away(request: Request) -> bool:
    """An EventSource comes back by itself even where it must not; the id of our close event tells."""
    code = close.code_of_event_id(handshake.last_event_id(request) or "")
    return code is not None and close.after_close(code) is close.Next.NEVER
