"""Fixed scripts (scripts.py): what a direct push through the API consists of, and a queued message in a processor."""

from __future__ import annotations

import itertools
import time

from benchmarks.check.engine_world import EngineWorld, client_id
from benchmarks.check.script import TEXT, Script, Work, repeated
from zpush._fast.lines import Line, Lines, by_owner
from zpush._fast.record import Record
from zpush._fast.work import UnderWay
from zpush.delivery.base import Entry
from zpush.delivery.batch import BATCHES
from zpush.delivery.tally import Tally
from zpush.protocol.message import Kind, Message, Outcome, Priority, new_id
from zpush.protocol.secure_token import SecureTokens
from zpush.queue.entry import to_fields
from zpush.queue.partition import Partition
from zpush.registry.base import Lease
from zpush.scoreboard import PROCESSOR, Scoreboard
from zpush.server.acks import Acks
from zpush.server.http_heads import KnownHeads
from zpush.server.http_message import HttpResponse, Route, date_line
from zpush.server.http_message import encode as encode_response
from zpush.server.http_parser import BodyBudget, HttpLimits, RequestReader
from zpush.server.local import EngineLocal

ID = "0199aabbccdd0011223344556677"
NOW_MS = 1_700_000_000_000
PUSH = b'{"to":{"client":"client-0000000000001"},"text":"%b","direct":true}' % TEXT
REQUEST = (
    b"POST /v1/push HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
)
BATCH = 200


def request_reader() -> RequestReader:
    route = Route(lambda _: HttpResponse(200), 1 << 16)
    return RequestReader(lambda _: route, 1 << 16, HttpLimits(), BodyBudget(1 << 20), KnownHeads())


def read_request(reader: RequestReader, data: bytes) -> None:
    reader.feed(data)
    request, _ = reader.ready.popleft()
    reader.release(request)


def read_known_request() -> Script:
    """A push whose head came before."""
    reader, data = request_reader(), REQUEST % (b"", len(PUSH), PUSH)
    return repeated(lambda: read_request(reader, data))


def read_new_request() -> Script:
    """One whose head is new."""
    reader, numbers = request_reader(), itertools.count()
    return repeated(lambda: read_request(reader, REQUEST % (b"X: %010d\r\n" % next(numbers), len(PUSH), PUSH)))


def write_response() -> Script:
    reader, date = request_reader(), date_line(0)
    reader.feed(REQUEST % (b"", len(PUSH), PUSH))
    request, _ = reader.ready.popleft()
    response = HttpResponse(200, b'{"id":"%b","outcomes":[]}' % ID.encode())
    return repeated(lambda: encode_response(response, date, request, True))


def message_id() -> Script:
    return repeated(new_id, 1024)


def deliver_here() -> Script:
    """A batch to this worker's own clients; engine_deliver is the engine's part of it."""
    world, board = EngineWorld(BATCH), Scoreboard()
    local = EngineLocal(Acks(board.rows[board.claim(PROCESSOR, 0)]), SecureTokens(bytes(32)))
    local.engine = world.engine
    entries = [Entry(client_id(i).decode(), ID, TEXT, Kind.TEXT) for i in range(BATCH)]

    def prepare() -> Work:
        world.prepare_batch(TEXT)  # opens them, or reads what the round before has sent
        return lambda: local.deliver(entries, _never)

    return Script(BATCH, prepare)


def _never(settled: object) -> None:
    raise AssertionError("a socket was full")


def read_records() -> Script:
    """Entries of a stream made records."""
    fields = [each.encode() if isinstance(each, str) else each for each in to_fields(Message(ID, "client-1", TEXT))]
    entries = [(b"%d-%d" % (NOW_MS, i), fields) for i in range(BATCH)]

    def prepare() -> Work:
        partition = Partition(Priority.NORMAL, 0, "zpush.normal.0", "reader.1", b"0-0", 0.0)
        return lambda: partition.received(entries)

    return Script(BATCH, prepare)


class _Owner:
    """The router's part in a batch's answer, where all goes well."""

    def __init__(self, lines: Lines) -> None:
        self.moved = lines.moved

    def not_here(self, lines: list[Line]) -> None:
        raise AssertionError("nobody is missing")

    def unreachable(self, node_id: str, lines: list[Line], refused: bool) -> None:
        raise AssertionError("nobody is lost")

    def drained(self, line: Line) -> None:
        raise AssertionError("nothing was pending")


def route_records() -> Script:
    """A processor's batch from taken to finished; reading it, the look-up and the peers' wire are not in it."""
    board, now_ms = Scoreboard(), time.time_ns() // 1_000_000
    outcomes = Tally(board.rows[board.claim(PROCESSOR, 0)]).outcomes
    under_way = UnderWay(outcomes, None, Outcome.OFFLINE, Outcome.ELSEWHERE, Outcome.EXPIRED, _nothing)
    lines = Lines(Priority, 1 << 20, Outcome.EXPIRED, Outcome.REJECTED, 15.0, 60.0, _nothing, _rare, _rare)
    owner, node_id, answer = _Owner(lines), "0123456789", bytes([Outcome.DELIVERED]) * BATCH
    clients = [client_id(i).decode() for i in range(BATCH)]
    leases = [Lease(client, node_id, 1) for client in clients]

    def run(records: list[Record]) -> None:
        jobs, _ = under_way.begin(records, 60_000)
        lines.take_in(jobs, 0.0)
        owned, _, _ = by_owner(lines.next(BATCH), leases)
        for (to, _), group in owned.items():
            [batch] = BATCHES.fill(lines.sendable(group, to)[0], owner, to)
            batch.answered(answer)
        under_way.collect()

    def prepare() -> Work:
        messages = [Message(ID, client, TEXT, queued_ms=now_ms) for client in clients]
        records = [Record(message, Priority.NORMAL, 0, n) for n, message in enumerate(messages)]
        return lambda: run(records)

    return Script(BATCH, prepare)


def _nothing() -> None: ...


def _rare(*_: object) -> None:
    raise AssertionError("nobody is parked")


def tally_outcome() -> Script:
    board = Scoreboard()
    tally, queued_ms = Tally(board.rows[board.claim(PROCESSOR, 0)]), time.time_ns() // 1_000_000
    return repeated(lambda: tally.outcomes.settle(Priority.NORMAL, False, Outcome.DELIVERED, queued_ms))
