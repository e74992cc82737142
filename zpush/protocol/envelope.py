"""zpush.v1: JSON text messages around payloads, in both directions; and what stands for them in raw connections.

    server → client   {"id":"…","data":…}                 JSON as it was sent, or text as a JSON string
                      {"id":"…","base64":"…"}             a binary payload
                      {"go_away":{"reason":"max_age","reconnect_in_ms":1234}}
                      {"secure_token":"…"}                the connection's own, first of all, where it was asked for
                      {"authenticated":true}              a newer token was taken
                      {"pong":…}                          what the ping said
    client → server   {"ack":"<id>"}  {"auth":"<jwt>"}  {"ping":…}

Rules. Encoding never fails: it runs for messages that were accepted long ago, called from C. A payload that claims to
be JSON is embedded as it is only if it is one JSON value: otherwise a sender could write the envelope's own fields.
Decoding tells three things apart: a control message, one that is malformed, and data that is no control message.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable
from typing import Any

import msgspec

from zpush.errors import MalformedMessage
from zpush.protocol.message import Kind, check_id

RAW_GO_AWAY = b"_CLOSE_"  # the whole text message, as in Zuul Push
AUTHENTICATED = b'{"authenticated":true}'
MAX_TOKEN_BYTES = 8192  # as large as the head in which a token usually comes
WHITE_SPACE = b" \t\n\r"  # RFC 8259 §2
MAX_PING_BYTES = 125  # as RFC 6455 §5.5 has it for ping frames

_BINARY, _JSON = int(Kind.BINARY), int(Kind.JSON)
_encode = msgspec.json.encode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode


def encode(id: bytes, kind: int, payload: bytes) -> bytes:
    """The text message for one push. kind: message.Kind."""
    name = b'"%b"' % id if id.isalnum() else _encode(id.decode(errors="replace"))
    if kind == _JSON and _is_json(payload):
        return b'{"id":%b,"data":%b}' % (name, payload)
    if kind != _BINARY:
        try:
            return b'{"id":%b,"data":%b}' % (name, _encode(payload.decode()))
        except UnicodeDecodeError:
            pass  # no text after all: every byte of it still arrives, in base64
    return b'{"id":%b,"base64":"%b"}' % (name, binascii.b2a_base64(payload, newline=False))


def _is_json(payload: bytes) -> bool:
    try:
        _check_json(payload)
        payload.decode()  # the check skips over strings without reading them
    except (ValueError, RecursionError):
        return False
    return True


def go_away(reason: str, reconnect_in_ms: int) -> bytes:
    return _encode({"go_away": {"reason": reason, "reconnect_in_ms": reconnect_in_ms}})


def pong(value: bytes) -> bytes:
    """value: Ping.value."""
    return b'{"pong":%b}' % value


# What clients send.


class Ack(msgspec.Struct, frozen=True):
    id: str


class Auth(msgspec.Struct, frozen=True):
    """token is a secret: it has no repr."""

    token: bytes

    def __repr__(self) -> str:
        return "Auth(…)"


class Ping(msgspec.Struct, frozen=True):
    """value: JSON, comes back in the pong."""

    value: bytes


class _Control(msgspec.Struct):
    ack: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    auth: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    ping: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_read_control = msgspec.json.Decoder(_Control).decode
_read_text = msgspec.json.Decoder(str).decode


def decode_control(payload: bytes) -> Ack | Auth | Ping | None:
    """A client's control message; None where it is none (then it is data); MalformedMessage with what is wrong.

    The caller has bounded the payload (connections.inbound_message_bytes).
    """
    if payload.lstrip(WHITE_SPACE)[:1] != b"{":
        return None
    try:
        control = _read_control(payload)
    except (ValueError, RecursionError):
        return None
    named = [
        (name, bytes(raw))
        for name, raw in (("ack", control.ack), ("auth", control.auth), ("ping", control.ping))
        if isinstance(raw, msgspec.Raw)
    ]
    if not named:
        return None
    if len(named) > 1:
        raise MalformedMessage("a control message says one thing: " + " or ".join(name for name, _ in named))
    return _READERS[named[0][0]](named[0][1])


def _ack(raw: bytes) -> Ack:
    return Ack(check_id(_text(raw, "ack"), "ack"))


def _auth(raw: bytes) -> Auth:
    token = _text(raw, "auth").encode()
    if not 0 < len(token) <= MAX_TOKEN_BYTES:
        raise MalformedMessage(f"auth is a token of 1 to {MAX_TOKEN_BYTES} bytes", "auth")
    return Auth(token)


def _ping(raw: bytes) -> Ping:
    if len(raw) > MAX_PING_BYTES:
        raise MalformedMessage(f"ping is {len(raw)} bytes long; at most {MAX_PING_BYTES} are allowed", "ping")
    try:
        raw.decode()
    except UnicodeDecodeError:
        raise MalformedMessage("ping is not valid UTF-8", "ping") from None
    return Ping(raw)


def _text(raw: bytes, field: str) -> str:
    try:
        return _read_text(raw)
    except ValueError:
        raise MalformedMessage(f"{field} must be a string", field) from None


_READERS: dict[str, Callable[[bytes], Ack | Auth | Ping]] = {"ack": _ack, "auth": _auth, "ping": _ping}


# The client's side. The standard library's decoder: numbers may be of any size, and a client is no hot path.


class Push(msgspec.Struct, frozen=True):
    """data: the JSON value (a text payload is a str), or bytes for a binary payload."""

    id: str
    data: Any


class GoAway(msgspec.Struct, frozen=True):
    reason: str
    reconnect_in_ms: int


class Pong(msgspec.Struct, frozen=True):
    value: Any


class Authenticated(msgspec.Struct, frozen=True):
    """A newer token was taken: the connection lives as long as that one."""


class SecureToken(msgspec.Struct, frozen=True):
    """The connection's own; a secret, so it has no repr."""

    token: str

    def __repr__(self) -> str:
        return "SecureToken(…)"


def ack(id: str) -> bytes:
    return _encode({"ack": id})


def auth(token: str) -> bytes:
    return _encode({"auth": token})


def decode(text: str | bytes) -> Push | GoAway | SecureToken | Authenticated | Pong | None:
    """A server's message; None for a kind that this client does not know; MalformedMessage where it is not zpush.v1."""
    try:
        fields = json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError):
        raise MalformedMessage("not a JSON message") from None
    if not isinstance(fields, dict):
        raise MalformedMessage("not a JSON object")
    if "go_away" in fields:
        return _read_go_away(fields["go_away"])
    if "pong" in fields:
        return Pong(fields["pong"])
    if "secure_token" in fields:
        return SecureToken(_encodable(fields["secure_token"], "secure_token"))
    if fields.get("authenticated") is True:
        return Authenticated()
    return _read_push(fields) if "id" in fields else None


def _integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # past sys.get_int_max_str_digits; as in JavaScript, it is infinite then
        return float(digits)


def _read_push(fields: dict[str, Any]) -> Push:
    id = _encodable(fields["id"], "id")
    if "data" in fields:
        return Push(id, fields["data"])
    try:
        return Push(id, binascii.a2b_base64(fields["base64"], strict_mode=True))
    except (KeyError, TypeError, ValueError):
        raise MalformedMessage("neither data nor base64", "data") from None


def _encodable(value: Any, field: str) -> str:
    """A string that can be sent back. Half a surrogate pair, which json lets pass, cannot."""
    if not isinstance(value, str):
        raise MalformedMessage(f"{field} must be a string", field)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MalformedMessage(f"{field} is not Unicode text", field) from None
    return value


def _read_go_away(value: Any) -> GoAway:
    try:
        return msgspec.convert(value, GoAway)
    except (msgspec.ValidationError, UnicodeEncodeError) as e:  # half a surrogate pair, which json lets pass
        raise MalformedMessage(f"go_away: {e}", "go_away") from None
