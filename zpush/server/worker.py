"""One push server process: engine, registry, peers and API on one uvloop.

Rules. Sockets come from the master, already listening; they are taken up last, when everything behind them
is there. TERM: new handshakes are refused, clients are asked to go within the drain window, then closed.
INT and QUIT: closed at once. Either way the node is withdrawn, so that nobody sends here any more. The
heartbeat and the sweep are one timer: a loop that is stuck has no heartbeat, and the master sees it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import random
import secrets
import signal
import socket
import time
from collections.abc import Callable

import uvloop

from zpush import log, policy
from zpush._fast.engine import Engine
from zpush.auth.base import Authenticator
from zpush.auth.open import open_authenticator
from zpush.config import Settings
from zpush.config.secrets import peers_secret, queue_url
from zpush.delivery.peer_server import PeerServer
from zpush.delivery.peers import Peers
from zpush.delivery.presence import open_presence
from zpush.delivery.router import Router
from zpush.delivery.tally import Tally
from zpush.errors import ConfigError, StartupError
from zpush.log import event, set_process
from zpush.protocol import envelope
from zpush.protocol.close import SHUTTING_DOWN
from zpush.protocol.secure_token import SecureTokens
from zpush.queue.open import open_producer
from zpush.registry.base import Node, NodeState
from zpush.registry.open import open_registry
from zpush.scoreboard import INDEX, Row, Scoreboard
from zpush.server.acks import Acks
from zpush.server.api import Api, ApiContext
from zpush.server.authentication import Authentication
from zpush.server.conversation import Conversation
from zpush.server.front_door import FrontDoor
from zpush.server.http import HttpServer
from zpush.server.leases import LeaseKeeper
from zpush.server.listeners import Listeners
from zpush.server.local import EngineLocal
from zpush.tasks import Tasks

TICK_S = 0.5
API = 1  # among a worker's servers
SPARE_SLOTS = 256  # connections above the limit, to be told so with a 503
SETTLE_S = 2.0  # for closing handshakes and removals at the end
PEERS_SLACK_S = 5.0
GC_THRESHOLD = 20_000
_log = logging.getLogger("zpush.worker")


class Worker:
    def __init__(
        self,
        settings: Settings,
        scoreboard: Scoreboard,
        row: Row,
        slot: int,
        sockets: Listeners,
        load: Callable[[], Settings],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._settings = settings
        self._load = load
        self._sockets = sockets
        self._row = row
        self._servers: list[asyncio.AbstractServer] = []
        self._master_pid = os.getppid()
        self._swept_s = time.monotonic()
        self._stopped = asyncio.Event()
        self._drained = asyncio.Event()
        self._tasks = Tasks(_log)
        node = _node(settings, slot, sockets.peers)
        secret = peers_secret(settings)
        self._registry = open_registry(settings, f"zpush-worker-{slot}")
        self._peers = Peers(secret, node.id, 2 * settings.connections.unsent_age_s + PEERS_SLACK_S)
        tokens = SecureTokens(secret)
        self._acks = Acks(row)
        self._presence = open_presence(settings, row)
        self._local = EngineLocal(self._acks, tokens)
        self._router = Router(
            self._registry,
            self._peers,
            self._local,
            node.id,
            settings.peers.region,
            settings.processor.retry_s,
            settings.registry.node_ttl_s,
            on_dead=self._presence.expired if self._presence is not None else None,
        )
        self._keeper = LeaseKeeper(self._registry, settings.registry, node, self._presence)
        authenticator = open_authenticator(settings)
        self._authentication = Authentication(authenticator, self._use_authenticator)
        self._front_door = FrontDoor(
            settings.connections,
            settings.auth,
            authenticator,
            tokens,
            self._registry,
            self._keeper,
            self._router,
            self._peers,
            self._why_not_ready,
            random.Random(secrets.randbits(64)),
            self._presence,
        )
        self._conversation = Conversation(
            authenticator, self._front_door, self._acks, settings.connections.inbound == "echo"
        )
        self._engine = Engine(
            Callbacks(self._front_door, self._conversation, self._local),
            settings.connections.max + SPARE_SLOTS,
            settings.connections,
            row.cells,
            INDEX,
            loop.call_soon,
            envelope.encode,
            echo=settings.connections.inbound == "echo",
            seed=secrets.randbits(64),
        )
        for part in (self._local, self._keeper, self._front_door, self._conversation):
            part.engine = self._engine
        self._local.front_door = self._front_door
        self._peer_server = PeerServer(self._local, secret, node.id)
        self._producer = open_producer(settings.queue, queue_url(settings))
        context = ApiContext(
            settings=settings,
            local=self._local,
            router=self._router,
            registry=self._registry,
            producer=self._producer,
            peers=self._peers,
            row=row,
            tally=Tally(row),
            scoreboard=scoreboard,
            ready=self._why_not_ready,
            node_id=node.id,
            broadcasts=self._peer_server.broadcasts,
            secure_tokens=tokens,
            lag=self._producer.lag,
            client_port=sockets.client.getsockname()[1],
        )
        self._api_calls = Api(context)
        self._api = HttpServer(self._api_calls)

    def _why_not_ready(self) -> str:
        if self._front_door.draining:
            return "draining"
        if not self._registry.up:
            return f"registry: {self._registry.reason}"
        if self._registry.refusal:
            return f"registry: {self._registry.refusal}"
        return "" if self._producer.up else f"queue: {self._producer.reason}"

    async def run(self, ready_fd: int) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._drain)
        for quick in (signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(quick, self._stopped.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        self._tick()
        await self._registry.start()
        await self._producer.start()
        if self._presence is not None:
            self._presence.start()
        await self._authentication.start()
        await self._keeper.start()
        backlog = self._settings.server.backlog
        self._servers = [
            await loop.create_server(self._peer_server.protocol_factory, sock=self._sockets.peers, backlog=backlog),
            await loop.create_server(self._api.protocol_factory, sock=self._sockets.api, backlog=backlog),
        ]
        self._sockets.client.setblocking(False)
        self._engine.add_listener(self._sockets.client.fileno())
        loop.add_reader(self._engine.fileno(), self._engine.poll)
        self._report()
        self._row.set("ready", 1)
        os.write(ready_fd, b"1")
        event(_log, "worker is serving", node=self._keeper.node_id, registry=self._registry.reason or "up")
        _tune_garbage_collector()
        try:
            await self._serve()
        finally:
            await self._leave()

    async def _serve(self) -> None:
        """Until it is told to stop. A failure in keeping the leases ends the process, and the master starts another."""
        stopped = asyncio.ensure_future(self._stopped.wait())
        await asyncio.wait([stopped, self._keeper.running], return_when=asyncio.FIRST_COMPLETED)
        if not stopped.done():
            stopped.cancel()
            self._keeper.running.result()

    def _tick(self) -> None:
        """Heartbeat, and the sweep whenever a whole second has passed."""
        asyncio.get_running_loop().call_later(TICK_S, self._tick)
        now_s = time.monotonic()
        self._row.set("heartbeat_ms", int(now_s * 1000))
        self._acks.expire()
        self._report()
        elapsed_s = math.floor(now_s - self._swept_s)
        if elapsed_s:
            self._swept_s += elapsed_s
            self._engine.sweep(elapsed_s)
        if self._front_door.draining and self._engine.connections == 0:
            self._drained.set()

    def _report(self) -> None:
        self._row.set("registry_up", self._registry.up)
        self._row.set("queue_up", self._producer.up)
        self._row.set("dirty_leases", self._keeper.dirty_leases)

    def _reload(self) -> None:
        """The master has checked the new settings; what cannot change in a running process stays as it is."""
        try:
            settings = self._load()
            log.setup(settings.log.level, settings.log.format, settings.log.file)
            authenticator = open_authenticator(settings)
            self._api_calls.reload(settings)
        except (ConfigError, StartupError) as e:
            event(_log, "reload: the old settings stay", logging.ERROR, reason=str(e))
            return
        self._settings = settings  # the drain window, and the grace after it
        self._engine.set_limits(settings.connections)
        self._front_door.set_limits(settings.connections, settings.auth)
        self._authentication.replace(authenticator)

    def _use_authenticator(self, authenticator: Authenticator) -> None:
        self._front_door.authenticator = self._conversation.authenticator = authenticator

    def _drain(self) -> None:
        if self._front_door.draining:
            self._stopped.set()
            return
        self._front_door.draining = True
        self._row.set("ready", 0)
        if os.getppid() != self._master_pid:
            self._stop_listening()  # the master is dead: the next one needs these ports
        elif self._servers and not self._sockets.api.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            self._servers[API].close()  # the master has taken it out of its group: uvloop would spin on it
        self._keeper.drain()
        window_s = policy.drain_window_s(self._engine.connections, self._settings.server.drain_window_s)
        asked = self._engine.go_away_all(window_s)
        event(_log, "draining: clients are asked to go", connections=asked, window_s=window_s)
        if not self._engine.connections:
            self._drained.set()
        self._tasks.spawn(self._wait_drained(window_s + self._settings.connections.go_away_grace_s + SETTLE_S))

    def _stop_listening(self) -> None:
        if self._servers:
            self._engine.remove_listener(self._sockets.client.fileno())
            for server in self._servers:
                server.close()
            self._servers = []
            self._sockets.close()

    async def _wait_drained(self, timeout_s: float) -> None:
        try:
            await asyncio.wait_for(self._drained.wait(), timeout_s)
        except TimeoutError:
            pass  # the rest is closed now
        self._stopped.set()

    async def _leave(self) -> None:
        """Closes what is left and says good-bye to registry, queue and peers."""
        self._row.set("ready", 0)
        self._stop_listening()
        closed = self._engine.close_all(SHUTTING_DOWN)
        if closed:
            try:
                self._front_door.draining = True
                await asyncio.wait_for(self._drained.wait(), SETTLE_S)
            except TimeoutError:
                pass  # clients that do not answer our close frame
        await self._api.stop(SETTLE_S)
        await self._front_door.settle_down(SETTLE_S)
        await self._conversation.settle_down(SETTLE_S)
        await self._keeper.stop()
        await self._router.stop()
        await self._producer.stop()
        await self._authentication.stop()
        self._peer_server.close()
        await self._peers.stop()
        asyncio.get_running_loop().remove_reader(self._engine.fileno())
        self._engine.dispose()
        await self._registry.stop()
        if self._presence is not None:
            await self._presence.stop()  # after the last connection's end
        event(_log, "worker has left", closed=closed)


class Callbacks:
    """The engine's handler: requests and ends go to the front door, outcomes to delivery, and ends there as well."""

    def __init__(self, front_door: FrontDoor, conversation: Conversation, local: EngineLocal) -> None:
        self.on_request = front_door.on_request
        self.on_message = conversation.on_message
        self.on_settled = local.on_settled
        self.on_broadcast = local.on_broadcast
        self._front_door = front_door
        self._local = local

    def on_close(self, handle: int, client_id: bytes, user_id: bytes, epoch: int, code: int, was_open: bool) -> None:
        self._front_door.on_close(handle, client_id, user_id, epoch, code, was_open)  # may give the id back to another
        self._local.on_close(client_id)


def _tune_garbage_collector() -> None:
    # Clients are no Python objects, so what the collector walks over is mostly modules, for ever alive: 15 % of a
    # herd's CPU time with the default thresholds.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)


def _node(settings: Settings, slot: int, peers: socket.socket) -> Node:
    """This incarnation: a new id at each start."""
    host, port = peers.getsockname()[:2]
    host = settings.peers.advertise or host
    return Node(
        id=_incarnation(),
        address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        region=settings.peers.region,
        state=NodeState.UP,
        box=socket.gethostname(),
        slot=slot,
        pid=os.getpid(),
        started_ms=time.time_ns() // 1_000_000,
    )


def _incarnation() -> str:
    alphabet = "0123456789abcdefghijklmnopqrstuvwxyz"
    return "".join(secrets.choice(alphabet) for _ in range(10))


def run_worker(
    settings: Settings,
    scoreboard: Scoreboard,
    row: int,
    slot: int,
    sockets: Listeners,
    ready_fd: int,
    load: Callable[[], Settings],
) -> int:
    """The worker process, from fork to exit code. load: the settings after a HUP."""
    set_process(f"worker {slot}")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(log.on_loop_error)
        await Worker(settings, scoreboard, scoreboard.rows[row], slot, sockets, load).run(ready_fd)

    uvloop.run(main())
    return 0
