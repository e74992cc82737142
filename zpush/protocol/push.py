"""A push as a sender writes it: JSON in, a checked PushRequest out; and the answers. Sans-IO.

Rules. A body is read whole or refused whole, with the field that is wrong: unknown fields, two
targets, two payloads, a TTL that cannot be meant. Nothing is guessed or repaired. `text` and decoded
`base64` reach raw clients exactly; `data` reaches them as compact JSON, its numbers and escapes as
they were written: only the white space between tokens goes. A batch (NDJSON) is one push a line; a
bad line has an answer of its own and spoils no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate

import msgspec
from msgspec import UNSET, UnsetType

from zpush.errors import MalformedMessage
from zpush.protocol.message import (
    MAX_TOKEN_CHARACTERS,
    NEVER,
    Kind,
    Message,
    Priority,
    Target,
    check_id,
    check_ids,
    check_message_id,
    new_id,
)

MAX_TTL_S = 30 * 86400.0
MAX_ACK_WAIT_S = 30.0  # a sender's connection stands idle meanwhile: half of what load balancers grant one
MAX_DEPTH = 128  # of nested `data`: receivers on small devices parse recursively
ENVELOPE_BYTES = 64 * 1024  # of a push's JSON beside its payload: room for thousands of targets
SLICE_BYTES = 64 * 1024  # of a batch's lines, read at one go: 1 ms; 10 where a line is as long and nothing but brackets
_LINE_COST = 256  # bytes that are read in the time that a line takes beside its own
_SHOWN = 200  # characters of a reason: a hostile field name is not echoed whole

_CLIENT, _USER, _ALL = Target  # names of the module's own: looking up an enum's member takes a tenth of reading a push
_TEXT, _BINARY, _JSON = Kind
_PAYLOAD_FIELDS = {_TEXT: "text", _BINARY: "base64", _JSON: "data"}
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")
_WHERE = re.compile(r"(.*) - at `\$\.?(.*)`", re.DOTALL)
_NAMED_FIELD = re.compile(r"Object (?:contains unknown|missing required) field `(.*)`", re.DOTALL)
_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_SQUARE = bytes.maketrans(b"{}", b"[]")
_STEPS = bytes.maketrans(b"[]", b"\x01\xff")  # up and down, as signed bytes


class TooLarge(MalformedMessage):
    """Well-formed perhaps, but past a bound: API answer 413."""


class _To(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    client: str | UnsetType = UNSET
    clients: list[str] | UnsetType = UNSET
    user: str | UnsetType = UNSET
    all: bool | UnsetType = UNSET


class _Body(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    to: _To
    data: msgspec.Raw | UnsetType = UNSET
    text: str | UnsetType = UNSET
    base64: bytes | UnsetType = UNSET
    priority: str = "normal"
    ttl: int | float | str | UnsetType = UNSET
    id: str | UnsetType = UNSET
    direct: bool = False
    wait_ack: float | UnsetType = UNSET
    secure_token: str | UnsetType = UNSET


class PushRequest(Message, frozen=True, array_like=True, gc=False):
    """A message as its sender asks for it. keys: client ids, one user id, or ("",) for all; `key` is the first.

    direct: it is delivered now, and the sender waits for what becomes of it.
    """

    keys: tuple[str, ...] = ()
    direct: bool = False

    def message(self, key: str) -> Message:
        """What is queued for one of its keys."""
        return self if len(self.keys) == 1 else msgspec.structs.replace(self, key=key)

    def messages(self) -> list[Message]:
        """One a key."""
        return [self.message(key) for key in self.keys]


_decode = msgspec.json.Decoder(_Body).decode
_priority = Priority.of  # an enum class is slow to look things up in
_encode = msgspec.json.Encoder().encode


def body_bytes(payload_bytes: int) -> int:
    """How long the JSON of a push may be: every payload byte as an escape (\\u0001), and its targets."""
    return 6 * payload_bytes + ENVELOPE_BYTES


def parse_push(body: bytes, now_ms: int, payload_bytes: int) -> PushRequest:
    """One push, or MalformedMessage with the reason and the field; TooLarge where the payload is longer than allowed.

    now_ms: Unix, the start of its TTL.
    """
    push = _read(body)
    target, keys = _target(push.to)
    kind, payload = _payload(push)
    if len(payload) > payload_bytes:
        reason = f"the payload is {len(payload)} bytes long; at most {payload_bytes} are allowed"
        raise TooLarge(reason, _PAYLOAD_FIELDS[kind])
    return PushRequest(
        new_id() if push.id is UNSET else check_message_id(push.id),
        keys[0],
        payload,
        kind,
        target,
        _priority(push.priority),
        NEVER if push.ttl is UNSET else now_ms + _ttl_ms(push.ttl),
        now_ms,
        0 if push.wait_ack is UNSET else _ack_wait_ms(push.wait_ack, push.direct, target),
        "" if push.secure_token is UNSET else check_token(push.secure_token, target, keys),
        keys,
        push.direct,
    )


def parse_batch(
    body: bytes, now_ms: int, max_lines: int, payload_bytes: int
) -> Iterator[list[PushRequest | MalformedMessage]]:
    """A push a line, each read or refused on its own; a slice at a time, so that others need not wait for all of it.

    Before the first one: TooLarge where there are too many lines, MalformedMessage where there are none.
    """
    lines = split_lines(body, max_lines)
    if not lines:
        raise MalformedMessage("the batch is empty: send one push a line")
    line_bytes = body_bytes(payload_bytes)
    part: list[PushRequest | MalformedMessage] = []
    room = SLICE_BYTES
    for line in lines:
        if room <= 0:
            yield part
            part, room = [], SLICE_BYTES
        part.append(_parse_line(line, line_bytes, now_ms, payload_bytes))
        room -= len(line) + _LINE_COST
    yield part


def split_lines(body: bytes, max_lines: int) -> list[bytes]:
    """The lines; what follows the last newline counts where it is not blank."""
    lines = body.split(b"\n", max_lines)
    rest = lines.pop()
    if rest.strip():
        lines.append(rest)
    if len(lines) > max_lines or b"\n" in rest:
        raise TooLarge(f"a batch has at most {max_lines} lines")
    return lines


def error_body(code: str, message: str, field: str = "") -> bytes:
    """`{"error":{"code":…,"message":…,"field":…}}`; field is "" where no single one is to blame."""
    return _encode({"error": {"code": code, "message": message, "field": field}})


def queued_body(message_id: str) -> bytes:
    return _encode({"id": message_id, "queued": True})


def _parse_line(line: bytes, line_bytes: int, now_ms: int, payload_bytes: int) -> PushRequest | MalformedMessage:
    if len(line) > line_bytes:
        return TooLarge(f"the line is {len(line)} bytes long; a push has at most {line_bytes}")
    try:
        return parse_push(line, now_ms, payload_bytes)
    except MalformedMessage as e:
        return e if line.strip() else MalformedMessage("the line is empty")


def _read(body: bytes) -> _Body:
    try:
        return _decode(body)
    except msgspec.ValidationError as e:
        raise _invalid(str(e)) from None
    except msgspec.DecodeError as e:
        raise MalformedMessage(f"not JSON: {e}"[:_SHOWN]) from None
    except UnicodeDecodeError:
        raise MalformedMessage("not JSON: the body must be valid UTF-8") from None
    except RecursionError:
        raise _too_deep() from None


def _invalid(text: str) -> MalformedMessage:
    """msgspec's "what - at `$.path`" as a reason and a field."""
    located = _WHERE.fullmatch(text)
    reason, path = located.groups() if located else (text, "")
    named = _NAMED_FIELD.fullmatch(reason)
    if named:
        path = f"{path}.{named[1]}" if path else named[1]
    return MalformedMessage(reason[:_SHOWN], path[:_SHOWN])


def _target(to: _To) -> tuple[Target, tuple[str, ...]]:
    client, clients, user, everybody = to.client, to.clients, to.user, to.all
    if (client is UNSET) + (clients is UNSET) + (user is UNSET) + (everybody is UNSET) != 3:
        raise MalformedMessage("name exactly one of client, clients, user and all", "to")
    if client is not UNSET:
        return _CLIENT, (check_id(client, "to.client"),)
    if clients is not UNSET:
        if not clients:
            raise MalformedMessage("to.clients is empty", "to.clients")
        check_ids(clients, "to.clients")
        return _CLIENT, tuple(dict.fromkeys(clients))
    if user is not UNSET:
        return _USER, (check_id(user, "to.user"),)
    if everybody is not True:
        raise MalformedMessage("to.all can only be true", "to.all")
    return _ALL, ("",)


def _payload(push: _Body) -> tuple[Kind, bytes]:
    data, text, binary = push.data, push.text, push.base64
    if (data is UNSET) + (text is UNSET) + (binary is UNSET) != 2:
        raise MalformedMessage("give exactly one of data, text and base64", "data")
    if data is not UNSET:
        return _JSON, _compact(data)
    if text is not UNSET:
        return _TEXT, text.encode()
    assert binary is not UNSET
    return _BINARY, binary


def _compact(raw: msgspec.Raw) -> bytes:
    """Without the white space between tokens. The decoder has checked the syntax, but skips over UTF-8."""
    compact = msgspec.json.format(raw, indent=-1)
    try:
        compact.decode()
    except UnicodeDecodeError:
        raise MalformedMessage("data is not valid UTF-8", "data") from None
    if compact.count(b"[") + compact.count(b"{") > MAX_DEPTH and _depth(compact) > MAX_DEPTH:
        raise _too_deep()
    return compact


def _depth(json: bytes) -> int:
    """How deep arrays and objects nest. An own bound: the interpreters' recursion limits differ tenfold.

    Whoever sends brackets and nothing else must not hold a worker up, so none is looked at in Python. Taking all
    innermost pairs off is one level less. Where that leaves more than half, as of long chains, they are added up.
    """
    no_escapes = json.replace(b"\\\\", b"").replace(b'\\"', b"")
    rest = b"".join(no_escapes.split(b'"')[::2]).translate(_SQUARE, _NO_BRACKET)
    depth = 0
    while rest:
        size, rest = len(rest), rest.replace(b"[]", b"")
        depth += 1
        if 2 * len(rest) > size:
            return depth + max(accumulate(memoryview(rest.translate(_STEPS)).cast("b")))
    return depth


def _ack_wait_ms(wait_s: float, direct: bool, target: Target) -> int:
    if not direct or target is _ALL:
        raise MalformedMessage("wait_ack is for direct pushes to clients or a user", "wait_ack")
    if not 0.001 <= wait_s <= MAX_ACK_WAIT_S:
        raise MalformedMessage(f"wait_ack is seconds, at most {MAX_ACK_WAIT_S:.0f}", "wait_ack")
    return int(wait_s * 1000)


def check_token(token: str, target: Target, keys: tuple[str, ...]) -> str:
    """A push's secure token, or MalformedMessage."""
    if target is not _CLIENT or len(keys) > 1:
        raise MalformedMessage("a secure_token is one connection's: name one client", "secure_token")
    if not 0 < len(token) <= MAX_TOKEN_CHARACTERS:
        raise MalformedMessage("this is no secure token", "secure_token")
    return token


def _too_deep() -> MalformedMessage:
    return MalformedMessage(f"data is nested more than {MAX_DEPTH} deep", "data")


def _ttl_ms(ttl: float | str) -> int:
    if isinstance(ttl, str):
        match = _DURATION.fullmatch(ttl)
        if match is None:
            raise MalformedMessage(f'ttl must be seconds or text like "60s" or "5m", not {ttl[:40]!r}', "ttl")
        seconds = float(match[1]) * _UNITS_S[match[2]]
    else:
        seconds = ttl
    if not 0.001 <= seconds <= MAX_TTL_S:
        raise MalformedMessage(f"ttl must be from 1 ms to {MAX_TTL_S / 86400:.0f} days; leave it out for none", "ttl")
    return int(seconds * 1000)
