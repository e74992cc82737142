"""What the API's calls share: their collaborators, their errors, their JSON.

Rules. The API owns nothing: a worker builds its parts and hands them over. An error that a sender can
do something about is a ZpushError; here it gets its status and code, once for all calls and for the
lines of a batch. What is away for the moment is 503 with Retry-After and means: nothing was taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from zpush.delivery.tally import Tally
from zpush.errors import MalformedMessage, QueueFull, QueueUnavailable, RegistryUnavailable, Unavailable, ZpushError
from zpush.protocol.message import Message, Priority
from zpush.protocol.push import TooLarge, error_body
from zpush.server.http_message import JSON, HttpResponse

if TYPE_CHECKING:
    from zpush._fast.job import Job
    from zpush.config import Settings
    from zpush.delivery.base import Local
    from zpush.delivery.broadcasts import Broadcasts
    from zpush.protocol.secure_token import SecureTokens
    from zpush.queue.base import Lag, Producer
    from zpush.registry.base import Lease, Node, Registry
    from zpush.scoreboard import Row, Scoreboard

RETRY_AFTER = b"Retry-After: 1\r\n"
REGISTRY_TIMEOUT_S = 2.0
T = TypeVar("T")
encode_json = msgspec.json.Encoder().encode


class Routes(Protocol):
    """What the API asks of the router."""

    def route(self, jobs: Sequence[Job]) -> None: ...

    async def locate(self, client_id: str) -> tuple[Lease, Node] | None: ...

    async def locate_user(self, user_id: str) -> list[tuple[Lease, Node]]: ...

    async def devices(self, user_id: str) -> tuple[list[str], bool]: ...


class PeerCalls(Protocol):
    """What the API asks of other workers; PeerUnreachable where one cannot be asked."""

    def broadcast(self, node: Node, message: Message) -> Awaitable[dict[int, int]]: ...

    def close(self, node: Node, client_id: str, epoch: int, code: int) -> Awaitable[bool]: ...


@dataclass(frozen=True, slots=True)
class ApiContext:
    """ready() says why this worker cannot deliver now, "" where it can. node_id, broadcasts: this worker's own."""

    settings: Settings
    local: Local
    router: Routes
    registry: Registry
    producer: Producer | None  # None: direct pushes only
    peers: PeerCalls
    row: Row
    tally: Tally
    scoreboard: Scoreboard
    ready: Callable[[], str]
    node_id: str
    broadcasts: Broadcasts
    secure_tokens: SecureTokens
    lag: Callable[[], Awaitable[Mapping[Priority, Lag]]] | None = None
    client_port: int = 0  # where clients connect, for the demo page


class ApiError(ZpushError):
    """An answer that is no success, decided by the API itself."""

    def __init__(self, status: int, code: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field


async def in_time(answer: Awaitable[T]) -> T:
    """The registry's answer, or RegistryUnavailable: a server that hangs must not hold senders."""
    try:
        async with asyncio.timeout(REGISTRY_TIMEOUT_S):
            return await answer
    except TimeoutError:
        raise RegistryUnavailable(f"the registry did not answer within {REGISTRY_TIMEOUT_S:g} s") from None


def fault(error: ZpushError) -> tuple[int, str, str]:
    """(status, code, field) of any error that a call may end with."""
    match error:
        case ApiError():
            return error.status, error.code, error.field
        case TooLarge():
            return 413, "too_large", error.field
        case MalformedMessage():
            return 400, "malformed", error.field
        case QueueFull():
            return 503, "queue_full", ""
        case QueueUnavailable():
            return 503, "queue_unavailable", ""
        case RegistryUnavailable():
            return 503, "registry_unavailable", ""
        case Unavailable():
            return 503, "unavailable", ""
    raise error  # not a sender's business: 500, with the traceback in the log


def fault_response(error: ZpushError) -> HttpResponse:
    status, code, field = fault(error)
    return HttpResponse(status, error_body(code, str(error), field), JSON, RETRY_AFTER if status == 503 else b"")


def json_response(value: object, status: int = 200) -> HttpResponse:
    return HttpResponse(status, encode_json(value))
