"""One push as a Python program writes it: checked, and turned into messages or into the API's JSON. Sans-IO.

Rules. Exactly one target and one payload, the same bounds as the API's, and MalformedMessage with the field
before anything is sent. One push has one id, whoever it goes to: a receiver drops doubles by it.

Neither form of a push is looked at by the garbage collector: a sender has thousands of them.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from zpush.errors import MalformedMessage
from zpush.protocol.message import NEVER, Kind, Message, Priority, Target, check_id, check_ids, check_message_id, new_id
from zpush.protocol.push import MAX_ACK_WAIT_S, MAX_TTL_S, check_token

_encode = msgspec.json.Encoder().encode
_MISSING_PAYLOAD = "give exactly one of data, text and binary"
_CLIENT, _USER, _ALL = Target  # names of the module's own: looking an enum's member up costs 50 ns
_TEXT, _BINARY, _JSON = Kind
MIN_TTL_S = 0.001


class Push(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What `Pusher.push` takes. data: anything that has a JSON form. ttl: seconds, None for no end.

    wait_ack: seconds that a direct push waits for each client's own ack; ACKED where it came. secure_token: one
    connection's own; the push is REJECTED where the client has connected anew since.
    """

    client: str | None = None
    clients: Sequence[str] | None = None
    user: str | None = None
    all: bool = False
    data: Any | UnsetType = UNSET
    text: str | None = None
    binary: bytes | None = None
    priority: str | Priority = Priority.NORMAL
    ttl: float | None = None
    id: str | None = None
    direct: bool = False
    wait_ack: float | None = None
    secure_token: str | None = None


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """A checked push. keys: client ids, one user id, or ("",) for all; one: the target was given as `client`."""

    id: str
    target: Target
    keys: tuple[str, ...]
    one: bool
    kind: Kind
    payload: bytes
    priority: Priority
    ttl_s: float | None
    direct: bool
    wait_ack_s: float | None
    secure_token: str

    def messages(self, now_ms: int) -> list[Message]:
        expires_ms = NEVER if self.ttl_s is None else now_ms + int(self.ttl_s * 1000)
        return [
            Message(
                self.id,
                key,
                self.payload,
                self.kind,
                self.target,
                self.priority,
                expires_ms,
                now_ms,
                secure_token=self.secure_token,
            )
            for key in self.keys
        ]

    def json(self) -> bytes:
        """The body of POST /v1/push, without a line break."""
        body: dict[str, Any] = {"to": self._to(), "priority": self.priority.label, "id": self.id}
        if self.kind is _JSON:
            body["data"] = msgspec.Raw(self.payload)
        elif self.kind is _TEXT:
            body["text"] = self.payload.decode()
        else:
            body["base64"] = b64encode(self.payload).decode()
        if self.ttl_s is not None:
            body["ttl"] = self.ttl_s
        if self.direct:
            body["direct"] = True
        if self.wait_ack_s is not None:
            body["wait_ack"] = self.wait_ack_s
        if self.secure_token:
            body["secure_token"] = self.secure_token
        return _encode(body)

    def _to(self) -> dict[str, Any]:
        if self.target is _ALL:
            return {"all": True}
        if self.target is _USER:
            return {"user": self.keys[0]}
        return {"client": self.keys[0]} if self.one else {"clients": self.keys}


def prepare(push: Push) -> Prepared:
    """Checks it, or MalformedMessage."""
    target, keys = _target(push)
    kind, payload = _payload(push)
    if push.ttl is not None and not (_is_number(push.ttl) and MIN_TTL_S <= push.ttl <= MAX_TTL_S):
        raise MalformedMessage(f"ttl must be from {MIN_TTL_S} to {MAX_TTL_S:.0f} seconds; None for no end", "ttl")
    if push.wait_ack is not None and not (
        push.direct and not push.all and _is_number(push.wait_ack) and 0.001 <= push.wait_ack <= MAX_ACK_WAIT_S
    ):
        raise MalformedMessage(f"wait_ack is at most {MAX_ACK_WAIT_S:.0f} s, for direct pushes, not to all", "wait_ack")
    priority = push.priority if isinstance(push.priority, Priority) else Priority.of(push.priority)
    message_id = new_id() if push.id is None else check_message_id(push.id)
    token = "" if push.secure_token is None else check_token(push.secure_token, target, keys)
    one = push.client is not None
    return Prepared(message_id, target, keys, one, kind, payload, priority, push.ttl, push.direct, push.wait_ack, token)


def _target(push: Push) -> tuple[Target, tuple[str, ...]]:
    client, clients, user = push.client, push.clients, push.user
    if (client is not None) + (clients is not None) + (user is not None) + bool(push.all) != 1:
        raise MalformedMessage("name exactly one of client, clients, user and all", "to")
    if client is not None:
        return _CLIENT, (check_id(client, "client"),)
    if user is not None:
        return _USER, (check_id(user, "user"),)
    if clients is None:
        return _ALL, ("",)
    if isinstance(clients, str) or not clients:
        raise MalformedMessage("clients must be a list of at least one client id", "clients")
    check_ids(clients, "clients")
    return _CLIENT, tuple(dict.fromkeys(clients))


def _payload(push: Push) -> tuple[Kind, bytes]:
    if (push.data is not UNSET) + (push.text is not None) + (push.binary is not None) != 1:
        raise MalformedMessage(_MISSING_PAYLOAD, "data")
    if push.binary is not None:
        return _BINARY, bytes(push.binary)
    if push.text is None:
        return _JSON, _json(push.data)
    try:
        return _TEXT, push.text.encode()
    except UnicodeEncodeError:
        raise MalformedMessage("text is not valid Unicode", "text") from None


def _json(data: Any) -> bytes:
    """What msgspec would change on the quiet is refused: bytes become base64 with it, NaN and the infinities null."""
    if isinstance(data, bytes | bytearray | memoryview):
        raise MalformedMessage("data is what has a JSON form; bytes are sent as binary", "data")
    try:
        encoded = _encode(data)
        if b"null" in encoded and not _is_finite(msgspec.to_builtins(data)):
            raise ValueError("it contains NaN or an infinity")
    except (TypeError, ValueError, OverflowError, UnicodeEncodeError) as e:
        raise MalformedMessage(f"data has no JSON form: {e}", "data") from None
    return encoded


def _is_finite(data: Any) -> bool:
    """data: as msgspec.to_builtins() makes it."""
    if isinstance(data, dict):
        return all(map(_is_finite, data.values()))
    if isinstance(data, list | tuple):
        return all(map(_is_finite, data))
    return not isinstance(data, float) or math.isfinite(data)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
