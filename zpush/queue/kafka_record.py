"""A message as a Kafka record: key, value and headers, as any Kafka producer may write them.

Rules. What comes back is judged as a stranger's: either a Message, or MalformedMessage with the reason for the dead
letters. Of a header that is there twice the last counts; one without a value is as good as none. The time of a record
is the sender's or the broker's, as the topic is set up; none, or one in the future, counts as now.
"""

from __future__ import annotations

from operator import methodcaller
from typing import TYPE_CHECKING, Any

from zpush._fast.entry import read_headers
from zpush.errors import MalformedMessage
from zpush.protocol.close import EVENT_ID
from zpush.protocol.message import NEVER, Kind, Message, Priority, Target, from_headers, to_headers
from zpush.queue.entry import MAX_PAYLOAD_BYTES

if TYPE_CHECKING:
    from confluent_kafka import Message as KafkaRecord

_ask_headers = methodcaller("headers")

Headers = list[tuple[str, str | bytes | None]]

_TYPES = {kind: kind.label.encode() for kind in Kind}
_KINDS = {int(kind): kind for kind in Kind}
_CLIENT = Target.CLIENT  # looking an enum's member up costs 50 ns


def headers_of(message: Message) -> Headers:
    """Defaults are left out. Nearly all messages have two headers, in this order."""
    if message.target is _CLIENT and message.expires_ms == NEVER and not message.secure_token:
        return [("id", message.id), ("type", _TYPES[message.kind])]
    return list(to_headers(message).items())


def headers_in(record: KafkaRecord) -> list[Any] | None:
    """Names and values, the latter bytes or None; None where a name is not UTF-8.

    There confluent_kafka 2.16 breaks the rules of C: it returns a list with a hole in it, and an exception is set. So
    ask once, for who looks at the list again crashes; and not by `record.headers()`, which CPython after some calls
    no longer checks for such a thing, so that the exception would come up somewhere else.
    """
    try:
        headers: list[Any] | None = _ask_headers(record)
    except (SystemError, UnicodeDecodeError):  # the former with the latter as its cause
        return None
    return headers or []


def message_of(record: KafkaRecord, headers: list[Any] | None, priority: Priority, now_ms: int) -> Message:
    """The message, or MalformedMessage. headers: what headers_in gave."""
    payload = record.value()
    if payload is None:
        raise MalformedMessage("the record has no value", "payload")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise MalformedMessage(f"the payload has {len(payload)} bytes, more than {MAX_PAYLOAD_BYTES}", "payload")
    if headers is None:
        raise MalformedMessage("the name of a header is not valid UTF-8", "headers")
    key, (_, written_ms) = record.key(), record.timestamp()
    queued_ms = written_ms if 0 <= written_ms < now_ms else now_ms
    usual = read_headers(headers, key, payload)
    if usual is not None and not usual[0].startswith(EVENT_ID):
        message_id, client_id, payload, kind, expires_ms = usual
        return Message(message_id, client_id, payload, _KINDS[kind], _CLIENT, priority, expires_ms, queued_ms)
    known = {name: value for name, value in headers if value is not None}
    place = f"{record.topic()}:{record.partition()}:{record.offset()}"  # the id where the sender gave none
    return from_headers(key, payload, known, priority, queued_ms, place)
