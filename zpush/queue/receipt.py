"""A receipt: what became of one message for one client, in words that anything can read.

Rules. It is JSON, with the API's names and labels; what is empty or false is left out. On Kafka it is the value of a
record whose key is the message's id, on Streams an entry with the fields `key` and `payload`. Anybody may write there,
so what comes back is a receipt within these bounds, or None. Pure.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from zpush.protocol.message import MAX_ID_BYTES, Message, Target

MAX_RECEIPT_BYTES = 4096  # three ids of 255 bytes, each perhaps a backslash, and room for what is to come
MAX_MS = 253_402_300_799_999  # the end of the year 9999, past which no time can be shown

_Id = Annotated[str, msgspec.Meta(max_length=MAX_ID_BYTES)]
_Label = Annotated[str, msgspec.Meta(max_length=64)]
_Ms = Annotated[int, msgspec.Meta(ge=0, le=MAX_MS)]


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of one client; or, with `counts`, of all: connections by outcome.

    queued_ms: when the message was taken in; settled_ms: when the outcome was known (Unix). region: the processor's.
    """

    id: _Id
    priority: _Label
    region: _Label
    queued_ms: _Ms
    settled_ms: _Ms
    outcome: _Label = ""
    client: _Id = ""  # "" for all, and where a user had no client
    user: _Id = ""  # where the message was for a user
    node: _Label = ""  # the worker's that said so; "" where no worker was asked
    redelivered: bool = False
    counts: dict[_Label, Annotated[int, msgspec.Meta(ge=0, le=2**53)]] = {}


def encode(receipt: Receipt) -> bytes:
    return _encode(receipt)


def decode(content: bytes | None) -> Receipt | None:
    """None where it is none."""
    if content is None or len(content) > MAX_RECEIPT_BYTES:
        return None
    try:
        return _decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def user_of(message: Message) -> str:
    return message.key if message.target is Target.USER else ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Receipt).decode
