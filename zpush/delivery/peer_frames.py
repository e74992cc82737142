"""The peers' wire format, sans-IO: a length (u32, big endian), then one msgpack array `[kind, request id, …]`.

Rules. Requests are numbered by the caller; answers name the number and come in any order. A frame has
an upper bound that its length field is checked against before a byte of it is kept. Whatever does not
decode into exactly one of the shapes below is a PeerProtocolError, and the connection ends: a peer that
sends garbage once has no sound state to go on from.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from zpush.delivery.base import Entry
from zpush.errors import ZpushError
from zpush.protocol.message import Outcome

MAX_FRAME_BYTES = 16 * 1024 * 1024
LENGTH_BYTES = 4

_U63 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_U32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_Kind = Annotated[int, msgspec.Meta(ge=1, le=3)]
_Id = Annotated[str, msgspec.Meta(max_length=255)]

# What a batch's first answer may say, and what may be said of a message later on.
FINAL = frozenset(int(o) for o in Outcome if o not in (Outcome.PENDING, Outcome.NOT_HERE, Outcome.ELSEWHERE))
_FIRST = bytes(sorted({*FINAL, Outcome.PENDING, Outcome.NOT_HERE}))


class PeerProtocolError(ZpushError):
    """The other side does not speak this protocol, or not this version, or does not know the secret."""


class Deliver(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    request: _U63
    entries: list[Entry]


class Broadcast(msgspec.Struct, array_like=True, tag=2, frozen=True, gc=False):
    request: _U63
    id: _Id
    payload: bytes
    kind: _Kind


class Close(msgspec.Struct, array_like=True, tag=3, frozen=True, gc=False):
    request: _U63
    client_id: _Id
    epoch: _U63
    code: Annotated[int, msgspec.Meta(ge=1000, le=4999)]


class Outcomes(msgspec.Struct, array_like=True, tag=17, frozen=True, gc=False):
    """The first answer to Deliver: one byte an entry."""

    request: _U63
    outcomes: bytes


class SettledLater(msgspec.Struct, array_like=True, tag=18, frozen=True, gc=False):
    """Later answers to Deliver: (index, outcome) of entries that were PENDING."""

    request: _U63
    settled: list[tuple[_U32, _U32]]


class Counts(msgspec.Struct, array_like=True, tag=19, frozen=True, gc=False):
    """The answer to Broadcast: connections by outcome."""

    request: _U63
    counts: dict[_U32, _U63]


class Closed(msgspec.Struct, array_like=True, tag=20, frozen=True, gc=False):
    request: _U63
    closed: bool


Request = Deliver | Broadcast | Close
Answer = Outcomes | SettledLater | Counts | Closed

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def encode(value: Any) -> bytes:
    """A frame. ValueError where it would be longer than any peer accepts."""
    body = _encoder.encode(value)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a peer frame of {len(body)} bytes; at most {MAX_FRAME_BYTES} are allowed")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def decode_request(body: bytes) -> Request:
    try:
        return _requests.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerProtocolError(f"not a request: {error}") from None


def decode_answer(body: bytes) -> Answer:
    try:
        return _answers.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerProtocolError(f"not an answer: {error}") from None


def check_outcomes(outcomes: bytes, expected: int) -> None:
    """A first answer has one outcome an entry, each of them possible."""
    if len(outcomes) != expected:
        raise PeerProtocolError(f"{len(outcomes)} outcomes for {expected} entries")
    if outcomes.translate(None, _FIRST):
        raise PeerProtocolError("an outcome that is none")


class FrameReader:
    """Bytes in, frame bodies out. `limit_bytes` may grow: a stranger gets small frames only."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._start = 0

    def feed(self, data: bytes) -> None:
        if self._start:  # what was read goes away once a read, not once a frame
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    def next(self) -> bytes | None:
        """The next whole frame's body, or None; PeerProtocolError as soon as a length is too big."""
        begin = self._start + LENGTH_BYTES
        if len(self._buffer) < begin:
            return None
        size = int.from_bytes(self._buffer[self._start : begin], "big")
        if size > self.limit_bytes:
            raise PeerProtocolError(f"a frame of {size} bytes; at most {self.limit_bytes} are allowed here")
        if len(self._buffer) < begin + size:
            return None
        self._start = begin + size
        return bytes(self._buffer[begin : begin + size])
