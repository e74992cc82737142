"""A message as a Kafka record: key, value and headers, as any Kafka producer may write them.

Rules. What comes back is judged as a stranger's: either a Message, or MalformedMessage with the reason for the dead
letters. Of a header that is there twice the last counts; one without a value is as good as none. The time of a record
is the sender's or the broker's, as the topic is set up; none, or one in the future, counts as now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zpush._fast.taking import Messages
from zpush.errors import MalformedMessage
from zpush.protocol.close import EVENT_ID
from zpush.protocol.message import NEVER, Kind, Message, Priority, Target, from_headers, to_headers
from zpush.queue.entry import MAX_PAYLOAD_BYTES

if TYPE_CHECKING:
    from confluent_kafka import Message as KafkaRecord

Headers = list[tuple[str, str | bytes | None]]

_TYPES = {kind: kind.label.encode() for kind in Kind}
_CLIENT = Target.CLIENT  # looking an enum's member up costs 50 ns


def _to_client(
    message_id: str, client_id: str, payload: bytes, kind: Kind, priority: Priority, expires_ms: int, queued_ms: int
) -> Message:
    return Message(message_id, client_id, payload, kind, _CLIENT, priority, expires_ms, queued_ms)


USUAL = Messages(_to_client, (None, *Kind), EVENT_ID, MAX_PAYLOAD_BYTES)


def headers_of(message: Message) -> Headers:
    """Defaults are left out. Nearly all messages have two headers, in this order."""
    if message.target is _CLIENT and message.expires_ms == NEVER and not message.secure_token:
        return [("id", message.id), ("type", _TYPES[message.kind])]
    return list(to_headers(message).items())


def message_of(record: KafkaRecord, headers: list[Any] | None, priority: Priority, now_ms: int) -> Message:
    """The message, or MalformedMessage. headers: what headers_in gave."""
    message: Message | None = USUAL.read(record, headers, priority, now_ms)
    return message if message is not None else _in_any_form(record, headers, priority, now_ms)


def _in_any_form(record: KafkaRecord, headers: list[Any] | None, priority: Priority, now_ms: int) -> Message:
    payload = record.value()
    if payload is None:
        raise MalformedMessage("the record has no value", "payload")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise MalformedMessage(f"the payload has {len(payload)} bytes, more than {MAX_PAYLOAD_BYTES}", "payload")
    if headers is None:
        raise MalformedMessage("the name of a header is not valid UTF-8", "headers")
    key, (_, written_ms) = record.key(), record.timestamp()
    queued_ms = written_ms if 0 <= written_ms < now_ms else now_ms
    known = {name: value for name, value in headers if value is not None}
    place = f"{record.topic()}:{record.partition()}:{record.offset()}"  # the id where the sender gave none
    return from_headers(key, payload, known, priority, queued_ms, place)
