"""A message: who it is for, what it says, how long it is worth saying.

Rules. A message is immutable. Its payload is opaque bytes that no part of zpush rewrites; `kind` says
how a client is to take it. The same fields travel as Kafka headers, as fields of a stream entry and
in a peer's batch. `expires_ms` is absolute (Unix, milliseconds), so that time spent in a queue counts.
"""

from __future__ import annotations

import enum
import os
import struct
import time
from collections.abc import Mapping, Sequence

import msgspec

from zpush.errors import MalformedMessage
from zpush.protocol.close import EVENT_ID

MAX_ID_BYTES = 255  # client, user and message ids: one length byte in the engine's table
MAX_TOKEN_CHARACTERS = 64  # a secure token has 20
NEVER = 0  # expires_ms of a message without a TTL


class _Labelled(enum.IntEnum):
    """A number within zpush and on its wires; what people and programs outside read is its label."""

    @property
    def label(self) -> str:
        """The name in lower case, as in settings, metrics and answers."""
        return self.name.lower()

    def __str__(self) -> str:
        return self.label

    def __format__(self, spec: str) -> str:
        return format(self.label, spec)


class Priority(_Labelled):
    """Lower is served first. The label is the topic's suffix and the metrics' label."""

    HIGH = 0
    NORMAL = 1
    LOW = 2

    @staticmethod
    def of(label: str) -> Priority:
        """The one with this label. MalformedMessage where there is none."""
        try:
            return _PRIORITIES[label]
        except KeyError:
            raise MalformedMessage(f"priority must be high, normal or low, not {label[:40]!r}", "priority") from None


_PRIORITIES = {p.label: p for p in Priority}


class Kind(_Labelled):
    """How the client takes the payload: a text frame, a binary frame, or JSON (a text frame)."""

    TEXT = 1
    BINARY = 2
    JSON = 3


_KINDS = {k.label: k for k in Kind}
_BINARY = Kind.BINARY  # looking an enum's member up costs 50 ns


class Target(enum.IntEnum):
    """What the key names: one client, all clients of one user, or everybody."""

    CLIENT = 0
    USER = 1
    ALL = 2


class Outcome(_Labelled):
    """What became of one message for one client. One byte on the peers' wire.

    PENDING and NOT_HERE never leave zpush: the first waits in a write buffer, the second says that
    this worker does not hold the client (a stale route).
    """

    PENDING = 0
    DELIVERED = 1
    ACKED = 2
    OFFLINE = 3
    EXPIRED = 4
    DROPPED = 5
    RATE_LIMITED = 6
    REJECTED = 7
    ELSEWHERE = 8
    NOT_HERE = 16


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """key: client id, user id, or "" for all. expires_ms: Unix ms or NEVER. queued_ms: when it was taken in.

    ack_wait_ms: a direct push waits so long for the client's own ack. secure_token: must be the connection's, if given.
    """

    id: str
    key: str
    payload: bytes
    kind: Kind = Kind.TEXT
    target: Target = Target.CLIENT
    priority: Priority = Priority.NORMAL
    expires_ms: int = NEVER
    queued_ms: int = 0
    ack_wait_ms: int = 0
    secure_token: str = ""


_tails: list[bytes] = []  # the ends of ids to come
_new_tails = struct.Struct("6s" * 256).unpack
os.register_at_fork(after_in_child=_tails.clear)


def new_id() -> str:
    """A message id: six bytes of time, so that it can be sorted by, and six that nobody can guess; in hex."""
    while True:
        try:
            return ((time.time_ns() // 1_000_000).to_bytes(6, "big") + _tails.pop()).hex()
        except IndexError:  # the system is asked for 256 at a time: once an id, it is most of what an id costs
            _tails.extend(_new_tails(os.urandom(256 * 6)))


def made_ms(message_id: str) -> int:
    """When new_id() made it, in Unix ms; 0 where it did not. Judged by its looks: "01" is from 2004 to 2039."""
    looks_ours = len(message_id) == 24 and message_id.startswith("01") and not message_id.strip("0123456789abcdef")
    return int(message_id[:12], 16) if looks_ours else 0


def check_id(value: str, field: str) -> str:
    """A client, user or message id: 1–255 bytes of UTF-8 without control characters, or MalformedMessage."""
    if value.isascii() and value.isprintable() and 0 < len(value) <= MAX_ID_BYTES:
        return value  # nearly all are like this
    if not value:
        raise MalformedMessage(f"{field} is empty", field)
    try:
        size = len(value.encode())
    except UnicodeEncodeError:  # a lone surrogate
        raise MalformedMessage(f"{field} is not valid UTF-8", field) from None
    if size > MAX_ID_BYTES:
        raise MalformedMessage(f"{field} is {size} bytes long; at most {MAX_ID_BYTES} are allowed", field)
    if not value.isprintable() and any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in value):
        raise MalformedMessage(f"{field} contains a control character", field)
    return value


def check_ids(values: Sequence[str], field: str) -> None:
    """check_id for each. Usual ones are looked at as one text: 100,000 take some milliseconds, and not sixty."""
    text = "".join(values)
    if text.isascii() and text.isprintable() and all(values) and max(map(len, values), default=0) <= MAX_ID_BYTES:
        return
    for value in values:
        check_id(value, field)


def check_message_id(value: str) -> str:
    """check_id for a message, whose field is always `id`. One that looks as a close event's would keep an EventSource
    away for ever: it shows the id when it comes back."""
    if value.startswith(EVENT_ID):
        raise MalformedMessage(f"no id may begin with {EVENT_ID}", "id")
    return check_id(value, "id")


def check_payload(payload: bytes, kind: Kind) -> None:
    """Text and JSON must be UTF-8 (RFC 6455 §5.6), or MalformedMessage."""
    if kind is not _BINARY:
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise MalformedMessage(f"a {kind.label} payload must be valid UTF-8; send type=binary", "data") from None


def to_headers(message: Message) -> dict[str, bytes]:
    """The headers that any Kafka producer may set: id, expires, target, type, token. Defaults are left out."""
    headers = {"id": message.id.encode(), "type": message.kind.label.encode()}
    if message.expires_ms != NEVER:
        headers["expires"] = b"%d" % message.expires_ms
    if message.secure_token:
        headers["token"] = message.secure_token.encode()
    if message.target is Target.USER:
        headers["target"] = b"user:" + message.key.encode()
    elif message.target is Target.ALL:
        headers["target"] = b"all"
    return headers


def from_headers(
    key: bytes | None,
    payload: bytes,
    headers: Mapping[str, bytes],
    priority: Priority,
    queued_ms: int,
    fallback_id: str,
) -> Message:
    """A message as any producer may have written it, or MalformedMessage with the reason for `<prefix>.dead`."""
    kind_label = _text(headers, "type", "text")
    kind = _KINDS.get(kind_label)
    if kind is None:
        raise MalformedMessage(f"type must be text, binary or json, not {kind_label[:40]!r}", "type")
    target, client_id = _target(_text(headers, "target", "client"), key)
    expires = _text(headers, "expires", "0")
    if not (expires.isascii() and expires.isdigit() and len(expires) <= 15):
        raise MalformedMessage(f"expires must be Unix milliseconds in decimal, not {expires[:40]!r}", "expires")
    message_id = check_message_id(_text(headers, "id", "") or fallback_id)
    check_payload(payload, kind)
    token = _text(headers, "token", "")
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise MalformedMessage(f"token is {len(token)} characters long; it is no secure token", "token")
    if token and target is not Target.CLIENT:
        raise MalformedMessage("a token is one connection's: the target must be client", "token")
    return Message(message_id, client_id, payload, kind, target, priority, int(expires), queued_ms, secure_token=token)


def _target(target: str, key: bytes | None) -> tuple[Target, str]:
    if target == "all":
        return Target.ALL, ""
    if target.startswith("user:"):
        return Target.USER, check_id(target[5:], "user")
    if target != "client":
        raise MalformedMessage(f"target must be client, user:<id> or all, not {target[:40]!r}", "target")
    try:
        return Target.CLIENT, check_id((key or b"").decode(), "client")
    except UnicodeDecodeError:
        raise MalformedMessage("the key (client id) is not valid UTF-8", "client") from None


def _text(headers: Mapping[str, bytes], name: str, default: str) -> str:
    value = headers.get(name)
    if value is None:
        return default
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise MalformedMessage(f"header {name} is not valid UTF-8", name) from None
