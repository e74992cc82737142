"""Who waits for acks, and what ends the wait: the ack, the time, the client's end, a protocol that has none."""

from __future__ import annotations

import pytest

from zpush._fast.engine import EVENT_STREAM, RAW, V1
from zpush.delivery.base import Entry, Settled
from zpush.protocol.message import Outcome
from zpush.protocol.secure_token import SecureTokens
from zpush.scoreboard import WORKER, Row, Scoreboard
from zpush.server import acks
from zpush.server.acks import Acks
from zpush.server.agreed import Agreed
from zpush.server.local import EngineLocal

DELIVERED, PENDING, OFFLINE = int(Outcome.DELIVERED), int(Outcome.PENDING), int(Outcome.OFFLINE)


@pytest.fixture
def row() -> Row:
    board = Scoreboard()
    return board.rows[board.claim(WORKER, 0)]


class Told(list[Outcome]):
    """What a sender is told."""

    def expect(self, waits: Acks, client_id: str, message_id: str, wait_s: float = 30.0) -> bool:
        return waits.expect(client_id, message_id, wait_s, self.append)


def test_an_ack_is_told_and_counted_once(row: Row) -> None:
    waits, told = Acks(row), Told()
    assert told.expect(waits, "c1", "m1") and told.expect(waits, "c1", "m2")
    assert not told.expect(waits, "c1", "m1"), "somebody waits for this one"
    for client_id, message_id in (("c1", "m1"), ("c1", "m1"), ("c2", "m2"), ("c1", "never sent")):
        waits.acked(client_id, message_id)
    assert told == [Outcome.ACKED]
    assert (row.get("acks_awaited"), row.get("acks_unawaited")) == (1, 3)


def test_who_is_gone_acks_no_more(row: Row) -> None:
    waits, told, other = Acks(row), Told(), Told()
    assert told.expect(waits, "c1", "m1") and told.expect(waits, "c1", "m2") and other.expect(waits, "c2", "m1")
    waits.gone("c1")
    waits.gone("c3")
    assert told == [Outcome.DELIVERED] * 2 and not other


def test_a_wait_has_an_end(row: Row) -> None:
    waits, short, long = Acks(row), Told(), Told()
    assert short.expect(waits, "c1", "m1", wait_s=0.0) and long.expect(waits, "c1", "m2")
    waits.expire()
    assert (short, long) == ([Outcome.DELIVERED], [])


def test_no_more_wait_than_there_is_room_for(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acks, "MAX_WAITING", 2)
    waits, told = Acks(row), Told()
    assert [told.expect(waits, f"c{n}", "m") for n in range(3)] == [True, True, False]
    waits.gone("c0")
    waits.acked("c1", "m")
    assert [told.expect(waits, f"c{n}", "m") for n in range(3)] == [True, True, False]


class Clients:
    """An engine that holds these, and takes each message at once or when the test says so; a front door for them."""

    def __init__(self, **protocols: int) -> None:
        self.agreed = Agreed()
        self.handles: dict[bytes, int] = {}
        self.slow = False
        self._slots = 0
        for client_id, protocol in protocols.items():
            self.connect(client_id, protocol)

    def connect(self, client_id: str, protocol: int) -> None:
        self._slots += 1
        handle = self.handles[client_id.encode()] = 7 << 32 | self._slots
        self.agreed.note(handle, protocol, wants_token=False)

    def find(self, client_id: bytes) -> int:
        return self.handles.get(client_id, 0)

    def deliver_many(self, entries: list[tuple[bytes, bytes, bytes, int]]) -> tuple[bytearray, list[tuple[int, int]]]:
        if self.slow:
            return bytearray(len(entries)), [(index, index) for index in range(len(entries))]
        return bytearray([DELIVERED] * len(entries)), []


class World:
    def __init__(self, row: Row, clients: Clients) -> None:
        self.acks = Acks(row)
        self.local = EngineLocal(self.acks, SecureTokens(bytes(32)))
        self.local.engine = clients  # type: ignore[assignment]
        self.local.front_door = clients  # type: ignore[assignment]
        self.later: list[tuple[int, int]] = []

    def deliver(self, *client_ids: str) -> list[int]:
        def settled(some: Settled) -> None:
            self.later += some

        entries = [Entry(client_id, "m", b"x", 1, ack_wait_ms=30_000) for client_id in client_ids]
        return list(self.local.deliver(entries, settled))


def test_only_who_can_ack_is_waited_for(row: Row) -> None:
    world = World(row, Clients(json=V1, plain=RAW, stream=EVENT_STREAM))
    assert world.deliver("plain", "json", "stream") == [DELIVERED, PENDING, DELIVERED]
    world.acks.acked("json", "m")
    assert world.later == [(1, Outcome.ACKED)]


def test_who_is_gone_when_the_write_buffer_is_empty_is_not_waited_for(row: Row) -> None:
    clients = Clients(json=V1, plain=RAW, left=V1)
    clients.slow = True
    world = World(row, clients)
    assert world.deliver("json", "plain", "left") == [PENDING] * 3
    del clients.handles[b"left"]
    world.local.on_settled([(token, DELIVERED) for token in range(3)])
    assert world.later == [(1, DELIVERED), (2, DELIVERED)]
    world.acks.acked("json", "m")
    assert world.later[2:] == [(0, Outcome.ACKED)]


def test_a_client_that_is_back_here_may_ack_on_its_newer_connection(row: Row) -> None:
    clients = Clients(back=V1, other=V1, left=V1)
    world = World(row, clients)
    assert world.deliver("back", "other", "left") == [PENDING] * 3
    clients.connect("back", V1)
    clients.connect("other", RAW)
    del clients.handles[b"left"]
    for client_id in (b"back", b"other", b"left"):
        world.local.on_close(client_id)
    assert world.later == [(1, DELIVERED), (2, DELIVERED)], "nobody is left who could ack these"
    world.acks.acked("back", "m")
    assert world.later[2:] == [(0, Outcome.ACKED)]


def test_a_byte_says_both_things_of_its_connection() -> None:
    agreed = Agreed()
    agreed.note(3 << 32 | 5, EVENT_STREAM, wants_token=True)
    agreed.note(1 << 32 | 2, V1, wants_token=False)
    assert (agreed.protocol(3 << 32 | 5), agreed.wants_token(3 << 32 | 5)) == (EVENT_STREAM, True)
    assert (agreed.protocol(1 << 32 | 2), agreed.wants_token(1 << 32 | 2)) == (V1, False)
    agreed.note(4 << 32 | 5, RAW, wants_token=False)
    assert (agreed.protocol(4 << 32 | 5), agreed.wants_token(4 << 32 | 5)) == (RAW, False)
