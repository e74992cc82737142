"""The engine: every client socket of one worker, on an epoll set of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

RAW: int  # protocols of an open connection
V1: int
EVENT_STREAM: int

class Handler(Protocol):
    """What the engine tells Python. Called from poll(), run() or sweep(); must not raise."""

    def on_request(self, handle: int, head: bytes, peer: str) -> None:
        """A complete HTTP head (with its blank line). Answer with bind + open, or respond. peer: "host:port"."""

    def on_message(self, handle: int, opcode: int, payload: bytes) -> None:
        """A whole message from a WebSocket client (1 text, 2 binary)."""

    def on_close(self, handle: int, client_id: bytes, user_id: bytes, epoch: int, code: int, was_open: bool) -> None:
        """A bound connection is gone; the handle is dead, the client id no longer leads to it."""

    def on_settled(self, settled: Sequence[tuple[int, int]]) -> None:
        """(token, outcome) of messages that deliver_many had left pending."""

    def on_broadcast(self, token: int, counts: Mapping[int, int]) -> None:
        """A broadcast is through: how many connections ended with which outcome."""

class Limits(Protocol):
    """What the engine reads of [connections]; read at construction and by set_limits. slow_consumer: close or drop."""

    @property
    def head_bytes(self) -> int: ...
    @property
    def head_fields(self) -> int: ...
    @property
    def handshake_timeout_s(self) -> float: ...
    @property
    def keepalive_s(self) -> float: ...
    @property
    def pong_timeout_s(self) -> float: ...
    @property
    def go_away_grace_s(self) -> float: ...
    @property
    def inbound_message_bytes(self) -> int: ...
    @property
    def inbound_fragments(self) -> int: ...
    @property
    def inbound_messages(self) -> int: ...
    @property
    def inbound_window_s(self) -> float: ...
    @property
    def outbound_messages(self) -> int: ...
    @property
    def outbound_window_s(self) -> float: ...
    @property
    def per_address(self) -> int: ...
    @property
    def handshakes_per_address(self) -> int: ...
    @property
    def address_window_s(self) -> float: ...
    @property
    def proxy_protocol(self) -> bool: ...
    @property
    def trusted_proxies(self) -> Sequence[str]: ...
    @property
    def unsent_bytes(self) -> int: ...
    @property
    def unsent_age_s(self) -> float: ...
    @property
    def unsent_budget_bytes(self) -> int: ...
    @property
    def slow_consumer(self) -> str: ...

class Engine:
    def __init__(
        self,
        handler: Handler,
        capacity: int,
        limits: Limits,
        cells: memoryview,
        columns: Mapping[str, int],
        call_soon: Callable[[Callable[[], None]], object],
        encode_v1: Callable[[bytes, int, bytes], bytes],
        echo: bool = False,
        seed: int = 0,
    ) -> None:
        """cells, columns: this process's scoreboard row. encode_v1(id, kind, payload) → the zpush.v1 text message."""

    def fileno(self) -> int:
        """The epoll set: loop.add_reader(engine.fileno(), engine.poll)."""

    def set_limits(self, limits: Limits) -> None:
        """In force from now on, also for connections that are there."""

    def add_listener(self, fd: int) -> None:
        """A listening, non-blocking socket whose connections are ours. It stays the caller's to close. OSError."""

    def remove_listener(self, fd: int) -> None:
        """Nothing is accepted from it any more."""

    def poll(self) -> None:
        """Takes a bounded number of socket events."""

    def run(self) -> None:
        """What did not fit into the last turn: deadlines, broadcasts. The engine schedules it itself."""

    def sweep(self, elapsed_s: int) -> None:
        """Time has passed: pings, deadlines, go-aways, unsent ages. Whole seconds since the last call."""

    # handshake
    def bind(self, handle: int, client_id: bytes, user_id: bytes, protocol: int) -> int:
        """The client id leads here from now on; what is delivered before open() waits.

        protocol: RAW, V1 or EVENT_STREAM. Answers the handle that the id led to before, or 0.
        KeyError where the handle is dead, bound, or answered (unless by open_unknown).
        """

    def set_peer(self, handle: int, address: str) -> bool:
        """The client's own address, where a trusted proxy names it in the head; its limits apply from now on.

        Before open or respond. False: the handle is dead, or the address has its share and was answered 429.
        ValueError: not an IP address.
        """

    def rebind(self, handle: int) -> bool:
        """The newer connection is gone before it opened: the id leads here again, unless it leads elsewhere by now.

        True if it leads here.
        """

    def open(self, handle: int, head: bytes, epoch: int, age_s: int, expires: bool) -> bool:
        """Sends the 101 or the event stream's head; the connection is open. age_s: until go-away (0: never),
        or with `expires` until the token's end: then it is closed with 4006. False where the handle is dead."""

    def open_unknown(self, handle: int, head: bytes, protocol: int, deadline_s: int) -> bool:
        """Like open, for a client that says who it is in its first message: on_message brings it, then bind and admit.
        4001 after the deadline."""

    def admit(self, handle: int, epoch: int, age_s: int, expires: bool) -> bool:
        """An open connection has a lease and an age from now on: after bind, or with a newer token."""

    def respond(self, handle: int, response: bytes, result: str) -> bool:
        """Sends an HTTP answer, then closes. result: one of scoreboard.HANDSHAKE_RESULTS, counted."""

    # delivery
    def deliver_many(
        self, entries: Sequence[tuple[bytes, bytes, bytes, int]]
    ) -> tuple[bytearray, list[tuple[int, int]]]:
        """entries: (client id, message id, payload, kind). One outcome byte each (Outcome, NOT_HERE for a client
        that is not here); for PENDING ones (index, token), settled later through on_settled."""

    def broadcast(self, message_id: bytes, payload: bytes, kind: int) -> int:
        """To every open connection, a bounded number a turn. A token for on_broadcast."""

    def send(self, handle: int, opcode: int, payload: bytes) -> bool:
        """One WebSocket frame outside of deliveries (control answers)."""

    # ends
    def close(self, handle: int, code: int, reason: bytes = b"") -> bool:
        """Closing handshake with this code (an event stream: `event: close`, then its end)."""

    def close_client(self, client_id: bytes, epoch: int, code: int, reason: bytes = ...) -> bool:
        """Closes the client's connection if it is not newer than epoch (0: whatever it is). True if one was closed."""

    def go_away_all(self, window_s: int) -> int:
        """Asks every open connection to go at a random second within the window; code 1001 after the grace.

        Answers how many are still open.
        """

    def close_all(self, code: int) -> int:
        """Every connection, with this close code. How many were asked to."""

    def flush(self) -> None:
        """Sends what is queued, now."""

    # leases
    def client(self, handle: int) -> tuple[bytes, bytes, int] | None:
        """(client id, user id, epoch), or None where the handle is dead or not bound."""

    def find(self, client_id: bytes) -> int:
        """The handle, or 0."""

    def is_open(self, handle: int) -> bool:
        """False for one in its handshake or its end, and for a dead handle."""

    def set_epoch(self, handle: int, epoch: int) -> None:
        """Of its lease, as on_close tells it. Nothing for a dead handle."""

    def set_dirty(self, handle: int, dirty: bool) -> None:
        """Dirty: its lease has to be written again."""

    def set_all_dirty(self) -> int:
        """How many open connections there are."""

    @property
    def dirty_leases(self) -> int:
        """Open connections whose lease is to be written again. Counted on demand: a walk over all slots."""

    def dirty(self, limit: int) -> list[tuple[int, bytes, bytes, int]]:
        """Up to limit dirty open connections (handle, client id, user id, epoch), round robin."""

    def renewals(self, limit: int) -> list[tuple[int, bytes, bytes, int]]:
        """The next open connections that are not dirty; the cursor passes `limit` slots a call, and wraps."""

    @property
    def slots(self) -> int:
        """The highest slot ever used: renewals' cursor wraps here."""

    @property
    def connections(self) -> int:
        """Sockets held, in any state."""

    def dispose(self) -> None:
        """Closes every socket at once and frees all; allocated == freed afterwards."""
