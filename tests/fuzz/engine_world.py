"""A real engine with real sockets, in which a script is played; callbacks and bytes are held to the contract.

Rules. No event loop: call_soon is a list, turns are the script's. What must hold:

- a callback names a handle that lives; on_close comes once, and nothing of that handle after it;
- every pending token is settled exactly once, every broadcast is concluded exactly once;
- a client gets an HTTP answer first and then only what its protocol allows; each push at most once, only its own id's,
  in the order of delivery, none that was said to be dropped; whoever stays and reads gets all that was `delivered`;
- the engine comes to rest, is not stuck then (a send leaves, a ping is answered), and its gauges say what is open;
- allocated equals freed in the end, and no descriptor is left.
"""

from __future__ import annotations

import socket
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests._fast.engine_support import EngineLimits
from tests.fuzz.engine_clients import TEXT, Client
from tests.fuzz.engine_script import IDS, PROTOCOLS, Step
from tests.fuzz.frames import client_frame
from zpush._fast.engine import V1, Engine
from zpush.protocol import envelope
from zpush.protocol.message import Kind, Outcome
from zpush.scoreboard import INDEX

WEBSOCKET = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\n\r\n"
REFUSED = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
PENDING, DELIVERED, NOT_HERE = int(Outcome.PENDING), int(Outcome.DELIVERED), int(Outcome.NOT_HERE)
JSON = int(Kind.JSON)
OUTCOMES = {PENDING, DELIVERED, NOT_HERE, int(Outcome.DROPPED), int(Outcome.RATE_LIMITED)}


@dataclass
class Connection:
    """What the world knows of a handle."""

    handle: int
    client: Client | None
    protocol: int = 0
    id: bytes = b""  # while it is bound
    opened: bool = False
    unknown: bool = False  # opened so, and not admitted yet
    closed: bool = False  # on_close was called


@dataclass
class Push:
    """A message for one client. handle: where its id led when it was delivered."""

    id: bytes
    handle: int
    outcome: int = PENDING


@dataclass
class Broadcast:
    """A broadcast, and its counts once it is concluded."""

    token: int
    counts: Mapping[int, int] | None = None


@dataclass
class World:
    limits: Mapping[str, Any]
    echo: bool
    capacity: int
    buffer_bytes: int
    clients: list[Client] = field(default_factory=list)
    connections: dict[int, Connection] = field(default_factory=dict)
    pushes: dict[int, Push] = field(default_factory=dict)
    broadcasts: dict[int, Broadcast] = field(default_factory=dict)
    payloads: dict[int, bytes] = field(default_factory=dict)  # of pushes and broadcasts, by number
    pending: dict[int, int] = field(default_factory=dict)  # token → number
    settled_early: dict[int, int] = field(default_factory=dict)  # told within the call that gives the token
    hooks: list[tuple[str, Sequence[Step]]] = field(default_factory=list)
    due: list[Callable[[], None]] = field(default_factory=list)
    number: int = 0
    epoch: int = 0
    calls_within: int = 0  # engine calls under way

    def __post_init__(self) -> None:
        self.cells = memoryview(array("Q", bytes(8 * len(INDEX))))
        self.listener = socket.socket()
        self.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited, as in master/listeners.py
        if self.buffer_bytes:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.buffer_bytes)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(64)
        self.listener.setblocking(False)
        self.engine = Engine(
            self, self.capacity, EngineLimits(**self.limits), self.cells, INDEX, self.due.append, envelope.encode,
            echo=self.echo, seed=11,
        )  # fmt: skip
        self.engine.add_listener(self.listener.fileno())

    def cell(self, name: str) -> int:
        return self.cells[INDEX[name]]

    def connection(self, which: int) -> Connection | None:
        """One of those that ever asked, from the latest."""
        handles = list(self.connections)
        return self.connections[handles[-1 - which % len(handles)]] if handles else None

    # ---- the handler

    def on_request(self, handle: int, head: bytes, peer: str) -> None:
        assert handle not in self.connections, "asked twice"
        assert head.endswith(b"\r\n\r\n")
        client = next((client for client in self.clients if client.name == peer), None)
        connection = self.connections[handle] = Connection(handle, client)
        _, mode, protocol, id = (head.split(b" ")[1].split(b"/", 3) + [b""] * 4)[:4] if b" " in head else [b""] * 4
        if protocol in PROTOCOLS and id in IDS:
            number = PROTOCOLS.index(protocol) + 1
            if mode == b"open":
                self.bind(connection, id, number)
                self.open(connection, 0, False)
            elif mode == b"unknown":
                self.open_unknown(connection, number, 3)
        if mode == b"refuse":
            assert self.engine.respond(handle, REFUSED, "not_found")
        self.call_hook("request")

    def on_message(self, handle: int, opcode: int, payload: bytes) -> None:
        connection = self.connections[handle]
        assert connection.opened and not connection.closed
        assert self.engine.is_open(handle), "a message of a connection that is not open"
        assert connection.protocol == V1 or connection.unknown, "raw messages are nobody's business"
        assert opcode in (1, 2)
        self.call_hook("message")

    def on_close(self, handle: int, client_id: bytes, user_id: bytes, epoch: int, code: int, was_open: bool) -> None:
        connection = self.connections[handle]
        assert not connection.closed, "closed twice"
        assert (client_id, user_id) == (connection.id, b"user")
        assert was_open == connection.opened
        connection.closed = True
        assert self.engine.find(client_id) != handle
        assert self.engine.client(handle) is None
        assert not self.engine.is_open(handle)
        assert not self.engine.send(handle, TEXT, b"to nobody")
        self.call_hook("close")

    def on_settled(self, settled: Sequence[tuple[int, int]]) -> None:
        for token, outcome in settled:
            assert outcome in OUTCOMES - {PENDING}
            if token in self.pending:
                self.pushes[self.pending.pop(token)].outcome = outcome
            else:
                assert self.calls_within and token not in self.settled_early, "a token that nobody waits for"
                self.settled_early[token] = outcome
        self.call_hook("settled")

    def on_broadcast(self, token: int, counts: Mapping[int, int]) -> None:
        found = next(each for each in self.broadcasts.values() if each.token == token)
        assert found.counts is None, "concluded twice"
        found.counts = counts
        self.call_hook("broadcast")

    def call_hook(self, where: str) -> None:
        for i, (name, steps) in enumerate(self.hooks):
            if name == where:
                del self.hooks[i]
                for step in steps:
                    self.step(step)
                return

    # ---- steps

    def step(self, step: Step) -> None:
        getattr(self, f"do_{step[0]}")(*step[1:])

    def do_connect(self, data: bytes) -> Client:
        client = Client(self.listener.getsockname(), self.buffer_bytes)
        self.clients.append(client)
        client.whole = False
        client.say(data)
        return client

    def do_ask(self, mode: str, protocol: int, id: bytes) -> None:
        proxy = b"PROXY UNKNOWN\r\n" if self.limits["proxy_protocol"] and self.limits["trusted_proxies"] else b""
        path = b"/".join([b"", mode.encode(), PROTOCOLS[protocol - 1], id])
        self.do_connect(proxy + b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path).whole = True
        self.do_poll()

    def do_say(self, which: int, data: bytes) -> None:
        self.with_client(which, lambda client: client.say(data))

    def do_pour(self, which: int, much: tuple[int, int, int]) -> None:
        opcode, size, count = much
        self.do_say(which, client_frame(0x80 | opcode, b"z" * size, b"\1\2\3\4") * count)

    def do_shout(self, which: int, data: bytes) -> None:
        def shout(client: Client) -> None:
            client.whole = False
            client.say(data)

        self.with_client(which, shout)

    def do_read(self, which: int, size: int) -> None:
        self.with_client(which, lambda client: client.read(size))

    def do_finish(self, which: int) -> None:
        self.with_client(which, Client.finish)

    def do_leave(self, which: int) -> None:
        self.with_client(which, Client.leave)

    def do_reset(self, which: int) -> None:
        self.with_client(which, Client.reset)

    def with_client(self, which: int, act: Callable[[Client], object]) -> None:
        if self.clients:
            act(self.clients[-1 - which % len(self.clients)])

    def do_poll(self) -> None:
        self.engine.poll()

    def do_turn(self) -> None:
        self.engine.poll()
        due, self.due[:] = list(self.due), []
        for call in due:
            call()

    def do_sweep(self, elapsed_s: int) -> None:
        self.engine.sweep(elapsed_s)

    def do_hook(self, where: str, steps: Sequence[Step]) -> None:
        self.hooks.append((where, steps))

    def do_deliver(self, entries: Sequence[tuple[bytes, int, int]]) -> None:
        numbers, batch = [], []
        for id, size, kind in entries:
            number, payload = self.payload(size, kind)
            numbers.append(number)
            self.pushes[number] = Push(id, self.engine.find(id))
            batch.append((id, b"m%d" % number, payload, kind))
        self.calls_within += 1
        outcomes, pending = self.engine.deliver_many(batch)
        self.calls_within -= 1
        assert len(outcomes) == len(numbers)
        assert set(outcomes) <= OUTCOMES
        assert [index for index, _ in pending] == [i for i, outcome in enumerate(outcomes) if outcome == PENDING]
        for number, outcome in zip(numbers, outcomes, strict=True):
            self.pushes[number].outcome = outcome
        for index, token in pending:
            if token in self.settled_early:
                self.pushes[numbers[index]].outcome = self.settled_early.pop(token)
            else:
                assert token not in self.pending
                self.pending[token] = numbers[index]
        if not self.calls_within:
            assert not self.settled_early, "a token that nobody waits for"

    def payload(self, size: int, kind: int) -> tuple[int, bytes]:
        self.number += 1
        payload = self.payloads[self.number] = b"m#%d:%b" % (self.number, b"x" * size)
        return self.number, b'"%b"' % payload if kind == JSON else payload

    def do_broadcast(self, size: int, kind: int) -> None:
        number, payload = self.payload(size, kind)
        token = self.engine.broadcast(b"m%d" % number, payload, kind)
        assert all(each.token != token for each in self.broadcasts.values())
        self.broadcasts[number] = Broadcast(token)

    def do_send(self, which: int, size: int) -> None:
        self.with_connection(which, lambda each: self.engine.send(each.handle, TEXT, b"s" * size))

    def do_bind(self, which: int, id: bytes, protocol: int) -> None:
        self.with_connection(which, lambda each: self.bind(each, id, protocol))

    def do_open(self, which: int, age_s: int, expires: bool) -> None:
        self.with_connection(which, lambda each: self.open(each, age_s, expires))

    def do_open_unknown(self, which: int, protocol: int, deadline_s: int) -> None:
        self.with_connection(which, lambda each: self.open_unknown(each, protocol, deadline_s))

    def do_admit(self, which: int, id: bytes, age_s: int, expires: bool) -> None:
        def admit(each: Connection) -> None:
            if self.engine.is_open(each.handle):
                self.bind(each, id, each.protocol)
                assert self.engine.admit(each.handle, self.new_epoch(), age_s, expires)
                each.unknown = False

        self.with_connection(which, admit)

    def do_rebind(self, which: int) -> None:
        def rebind(each: Connection) -> None:
            if self.engine.rebind(each.handle):
                assert self.engine.find(each.id) == each.handle
                assert each.opened and not each.closed

        self.with_connection(which, rebind)

    def do_respond(self, which: int) -> None:
        self.with_connection(which, lambda each: self.engine.respond(each.handle, REFUSED, "unavailable"))

    def do_set_peer(self, which: int, address: str) -> None:
        def set_peer(each: Connection) -> None:
            if not each.id:  # as the front door does: before anything else
                self.engine.set_peer(each.handle, address)

        self.with_connection(which, set_peer)

    def do_close(self, which: int, code: int) -> None:
        self.with_connection(which, lambda each: self.engine.close(each.handle, code, b"because"))

    def do_close_client(self, id: bytes, epoch: int, code: int) -> None:
        self.engine.close_client(id, epoch, code)

    def do_close_all(self, code: int) -> None:
        self.engine.close_all(code)

    def do_go_away_all(self, window_s: int) -> None:
        self.engine.go_away_all(window_s)

    def do_leases(self, limit: int, dirty: bool) -> None:
        if dirty:
            self.engine.set_all_dirty()
        for handle, id, user_id, _ in self.engine.dirty(limit) + self.engine.renewals(limit):
            connection = self.connections[handle]
            assert connection.opened and not connection.closed
            assert (id, user_id) == (connection.id, b"user")
            self.engine.set_dirty(handle, not dirty)

    def do_flush(self) -> None:
        self.engine.flush()

    def do_set_limits(self, which: int) -> None:
        unsent_bytes = (200, 4000, 20_000, 65_536)[which]
        self.engine.set_limits(EngineLimits(**{**self.limits, "unsent_bytes": unsent_bytes}))

    def with_connection(self, which: int, act: Callable[[Connection], object]) -> None:
        connection = self.connection(which)
        if connection is not None:
            act(connection)

    # ---- calls that the world has to know of

    def bind(self, each: Connection, id: bytes, protocol: int) -> None:
        try:
            before = self.engine.bind(each.handle, id, b"user", protocol)
        except KeyError:
            return
        assert not each.closed and not each.id
        assert before != each.handle
        assert not before or self.connections[before].id == id
        each.id = id
        if not each.opened:
            each.protocol = protocol
        assert self.engine.find(id) == each.handle

    def open(self, each: Connection, age_s: int, expires: bool) -> None:
        head = STREAM if each.protocol == 3 else WEBSOCKET
        may = bool(each.id) and not each.opened and not each.closed
        each.opened = each.opened or may  # frames behind the head are told of within the call
        opened = self.engine.open(each.handle, head, self.new_epoch(), age_s, expires)
        assert opened == may, "a bound connection that waits is opened, and no other"

    def open_unknown(self, each: Connection, protocol: int, deadline_s: int) -> None:
        before = each.opened, each.protocol
        if each.id or each.opened:
            assert not self.engine.open_unknown(each.handle, WEBSOCKET, protocol, deadline_s)
            return
        each.opened, each.unknown, each.protocol = True, True, protocol
        head = STREAM if protocol == 3 else WEBSOCKET
        if not self.engine.open_unknown(each.handle, head, protocol, deadline_s):  # it is gone
            each.opened, each.protocol = before
            each.unknown = False

    def new_epoch(self) -> int:
        self.epoch += 1
        return self.epoch

    def close(self) -> None:
        for client in self.clients:
            client.reset()
        self.listener.close()
