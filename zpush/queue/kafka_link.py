"""Whether Kafka is there, as librdkafka tells it: errors when they happen, and its statistics four times a second.

Rules. An error says that all brokers are gone; that one is there again only the statistics say. Both come where the
client is polled, in a thread or on the loop, and what they lead to may be read from anywhere. Kafka is not away because
a connection broke a moment ago: brokers close idle ones, leaders move, and librdkafka connects again before anybody
would notice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from math import inf
from typing import Any

import msgspec
from confluent_kafka import KafkaError

from zpush.log import event

STATISTICS_MS = 250
AWAY_AFTER_S = 3.0  # an idle client takes up to two to connect again
CONNECTED = "UP"
IN_GROUP = "up"  # the group's coordinator is known and answers
# Brokers that have just started, or are about to hand something over: who asks again in a moment has an answer.
NOT_YET = frozenset(
    (
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
    )
)
log = logging.getLogger("zpush.queue")


class _Broker(msgspec.Struct):
    state: str


class _Group(msgspec.Struct):
    state: str


class _Statistics(msgspec.Struct):
    """What is read of them."""

    brokers: dict[str, _Broker]
    cgrp: _Group | None = None


class Link:
    """up: brokers answer, and nothing else is wrong. on_verdict: called by who polls, when that changes.

    It is called for the first error too, so that who waits for the first connection need not wait for its timeout.
    """

    def __init__(self, name: str, on_verdict: Callable[[], None]) -> None:
        self.known = False  # whether there was a verdict
        self._name = name
        self._on_verdict = on_verdict
        self._decode = msgspec.json.Decoder(_Statistics).decode
        self.connected = False  # to a broker, at this moment
        self._down_since_s = -inf
        self._trouble = ""  # what no connection shows
        self._reason = ""  # the last failed connection's
        self._said = (False, "")  # the last verdict

    @property
    def up(self) -> bool:
        return not self.away and not self._trouble

    @property
    def reason(self) -> str:
        """Why it is not up; "" where it is."""
        return "" if self.up else self._trouble or self._reason or "not connected yet"

    @property
    def away(self) -> bool:
        """No broker is connected, and not just for a moment."""
        return not self.connected and time.monotonic() - self._down_since_s >= AWAY_AFTER_S

    def callbacks(self) -> dict[str, Any]:
        """For the client's configuration."""
        return {
            "error_cb": self._on_error,
            "stats_cb": self._on_statistics,
            "statistics.interval.ms": STATISTICS_MS,
        }

    @property
    def troubled(self) -> bool:
        return bool(self._trouble)

    def trouble(self, reason: str) -> None:
        """Something that a connection alone does not mend: a missing topic, a missing right."""
        self._trouble = reason
        self._judge(is_certain=True)

    def well(self) -> None:
        """What was in trouble works."""
        self._trouble = ""
        self._judge()

    def _on_error(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._reason = error.str()
        elif self.connected:
            self.connected, self._down_since_s = False, time.monotonic()
        self._judge(is_certain=not self.connected)

    def _on_statistics(self, text: str) -> None:
        statistics = self._decode(text)
        is_there = any(broker.state == CONNECTED for broker in statistics.brokers.values())
        if is_there and (statistics.cgrp is None or statistics.cgrp.state == IN_GROUP):
            self.connected, self._reason = True, ""
        self._judge()

    def _judge(self, *, is_certain: bool = False) -> None:
        """Says what has changed."""
        verdict = (self.up, self._trouble)
        if verdict == self._said and (self.known or not is_certain):
            return
        self._said, self.known = verdict, True
        if self.up:
            event(log, "connected", server="kafka", connection=self._name)
        else:
            event(log, "not connected", logging.WARNING, server="kafka", connection=self._name, reason=self.reason)
        self._on_verdict()
