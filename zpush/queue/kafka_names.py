"""What is called how in Kafka, and how large a record may be.

Rules. Pure, and without confluent_kafka. A priority is a topic, and a client's messages stand in one partition of it.
MirrorMaker 2 puts the name of the cluster that it copied from in front: `us.zpush.high`.
"""

from __future__ import annotations

import re

from zpush.protocol.message import Priority

# A topic takes the largest payload that api.push_bytes can allow, with its key and headers; a dead letter also the
# headers that say why.
RECORD_BYTES = (8 << 20) + (64 << 10)
DEAD_RECORD_BYTES = RECORD_BYTES + (64 << 10)
RECEIPT_RECORD_BYTES = 64 << 10
PRESENCE_RECORD_BYTES = 64 << 10


def topic(prefix: str, priority: Priority) -> str:
    return f"{prefix}.{priority.label}"


def dead(prefix: str) -> str:
    return f"{prefix}.dead"


def receipts(prefix: str) -> str:
    return f"{prefix}.receipts"


def presence(prefix: str) -> str:
    return f"{prefix}.presence"


def subscription(prefix: str, priority: Priority, mirrored: bool) -> str:
    """What to subscribe to: the topic, or a pattern for it and its copies from other clusters."""
    own = topic(prefix, priority)
    return rf"^([^.]+\.)?{re.escape(own)}$" if mirrored else own


def is_read(subscription: str, topic: str) -> bool:
    """Whether who subscribes so reads this topic."""
    return re.fullmatch(subscription, topic) is not None if subscription.startswith("^") else topic == subscription


def group(name: str, priority: Priority) -> str:
    """One per priority, so that a rebalance of one leaves the others alone. name: queue.kafka.group."""
    return f"{name}.{priority.label}"


def replay_group(prefix: str) -> str:
    """Nobody's group: what it has committed tells which dead letters were replayed."""
    return f"{dead(prefix)}.replay"
