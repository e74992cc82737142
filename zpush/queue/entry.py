"""A message as the fields of a stream entry: the names of Kafka's headers, and `key` and `payload`.

Rules. Anybody may XADD to a stream, so what comes back is judged as strictly as a stranger's Kafka
record: either a Message, or MalformedMessage with the reason for the dead letters.
"""

from __future__ import annotations

from collections.abc import Sequence

from zpush.errors import MalformedMessage
from zpush.protocol.message import NEVER, Kind, Message, Priority, Target, from_headers

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024  # the most that api.push_bytes may allow, and half of what peers take in one frame
_TYPES = {kind: kind.label.encode() for kind in Kind}


def to_fields(message: Message) -> list[str | bytes]:
    """name, value, name, value … Defaults are left out."""
    fields: list[str | bytes] = [
        "id", message.id, "key", message.key, "payload", message.payload, "type", _TYPES[message.kind],
    ]  # fmt: skip
    if message.expires_ms != NEVER:
        fields += ("expires", b"%d" % message.expires_ms)
    if message.secure_token:
        fields += ("token", message.secure_token)
    if message.target is Target.USER:
        fields += ("target", f"user:{message.key}")
    elif message.target is Target.ALL:
        fields += ("target", "all")
    return fields


def from_fields(fields: Sequence[bytes], priority: Priority, queued_ms: int, stream: str, position: bytes) -> Message:
    """The message, or MalformedMessage. stream, position: its id where the sender gave none."""
    headers = dict(zip(fields[::2], fields[1::2], strict=True))
    payload = headers.get(b"payload")
    if payload is None:
        raise MalformedMessage("the entry has no field payload", "payload")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise MalformedMessage(f"the payload has {len(payload)} bytes, more than {MAX_PAYLOAD_BYTES}", "payload")
    known = {name: headers[field] for field, name in _HEADERS if field in headers}
    return from_headers(headers.get(b"key"), payload, known, priority, queued_ms, f"{stream}:{position.decode()}")


_HEADERS = [(name.encode(), name) for name in ("id", "type", "expires", "target", "token")]
