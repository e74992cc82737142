"""The usual push made a message in one step of C, at a quarter of the cost; push.py has the definition.

Rules. Loaded for Kafka only, whose producer needs zpush._fast anyway: other senders load nothing of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from zpush._fast.push import Usual
from zpush.delivery.push import MIN_TTL_S
from zpush.delivery.push_queue import QueueSender
from zpush.protocol.message import Kind, Message, Priority, Target, check_message_id
from zpush.protocol.push import MAX_TTL_S
from zpush.queue.kafka_producer import KafkaProducer

if TYPE_CHECKING:
    from zpush.queue.open import QueueSettings

_encode = msgspec.json.Encoder().encode
_priorities = {each.label: each for each in Priority}

usual_message = Usual(
    Message,
    _encode,
    check_message_id,
    UNSET,
    Target.CLIENT,
    tuple(Kind),
    _priorities,
    Priority.NORMAL,
    MIN_TTL_S,
    MAX_TTL_S,
)


def kafka_sender(queue: QueueSettings, url: str) -> QueueSender:
    """ConfigError where the URL or a setting is wrong."""
    producer = KafkaProducer(queue, url)
    return QueueSender(producer, usual_message, producer.singles(usual_message.of))
