"""The topics that a queue on Kafka needs: which, how they are to be, how they are, and how they are made.

Rules. `wanted` is the one list of them. What exists is never changed: another number of partitions breaks the order of
what waits, a shorter retention deletes it at once; that is for an operator with Kafka's own tools. All of this blocks,
for the command line and for the check at a start, which have no event loop; QueueUnavailable tells a cluster that is
away from one that answers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from zpush.errors import QueueUnavailable
from zpush.protocol.message import Priority
from zpush.queue import kafka_names
from zpush.queue.kafka_config import KafkaSettings, brokers, client_config, opened

POLL_S = 0.05


class TopicSettings(KafkaSettings, Protocol):
    """What is read of [queue.kafka] here."""

    @property
    def replication(self) -> int: ...

    @property
    def retention_s(self) -> float: ...

    @property
    def dead_retention_s(self) -> float: ...

    @property
    def receipt_retention_s(self) -> float: ...

    @property
    def presence_retention_s(self) -> float: ...


class QueueSettings(Protocol):
    """What is read of [queue] here."""

    @property
    def prefix(self) -> str: ...

    @property
    def partitions(self) -> int: ...

    @property
    def receipts(self) -> bool: ...

    @property
    def presence(self) -> bool: ...

    @property
    def kafka(self) -> TopicSettings: ...


class Topic(msgspec.Struct, frozen=True):
    """replication: 0 where the brokers decide. config: Kafka's names and values."""

    name: str
    partitions: int
    replication: int
    config: dict[str, str]


class Difference(msgspec.Struct, frozen=True):
    """what: "partitions", "replication", or the name of a topic's configuration."""

    what: str
    found: str
    wanted: str


class Look(msgspec.Struct, frozen=True):
    """A topic that is wanted, and how it was found."""

    topic: Topic
    exists: bool
    differences: tuple[Difference, ...] = ()


def wanted(queue: QueueSettings) -> list[Topic]:
    """Every topic that this configuration needs."""
    kafka = queue.kafka
    topics = [
        _topic(
            kafka_names.topic(queue.prefix, priority),
            queue.partitions,
            kafka.replication,
            kafka.retention_s,
            kafka_names.RECORD_BYTES,
        )
        for priority in Priority
    ]
    dead = kafka_names.dead(queue.prefix)
    topics.append(_topic(dead, 1, kafka.replication, kafka.dead_retention_s, kafka_names.DEAD_RECORD_BYTES))
    if queue.receipts:
        topics.append(
            _topic(
                kafka_names.receipts(queue.prefix),
                queue.partitions,
                kafka.replication,
                kafka.receipt_retention_s,
                kafka_names.RECEIPT_RECORD_BYTES,
            )
        )
    if queue.presence:
        topics.append(
            _topic(
                kafka_names.presence(queue.prefix),
                queue.partitions,
                kafka.replication,
                kafka.presence_retention_s,
                kafka_names.PRESENCE_RECORD_BYTES,
            )
        )
    return topics


def _topic(name: str, partitions: int, replication: int, retention_s: float, record_bytes: int) -> Topic:
    config = {
        "cleanup.policy": "delete",
        "retention.ms": str(round(retention_s * 1000)),
        "max.message.bytes": str(record_bytes),
    }
    if replication > 2:  # one broker may be away, and what was acknowledged is still on two
        config["min.insync.replicas"] = str(replication - 1)
    return Topic(name, partitions, replication, config)


class Topics:
    """The topics of one queue. Nothing is connected before the first question."""

    def __init__(self, queue: QueueSettings, url: str, timeout_s: float) -> None:
        """ConfigError where the URL or a setting is wrong."""
        self._wanted = wanted(queue)
        self._where = ", ".join(brokers(url))
        self._timeout_s = timeout_s
        self._said = _LastWords()
        self._admin = opened(AdminClient, {**client_config(url, queue.kafka), "logger": self._said})

    def missing(self) -> list[Topic]:
        """Those that are wanted and not there."""
        found = self._describe()
        return [topic for topic in self._wanted if topic.name not in found]

    def look(self) -> list[Look]:
        """Each that is wanted, with what differs."""
        found = self._describe()
        configs = self._configs(list(found))
        return [
            Look(topic, True, tuple(_differences(topic, found[topic.name], configs[topic.name])))
            if topic.name in found
            else Look(topic, False)
            for topic in self._wanted
        ]

    def create(self, topics: Sequence[Topic]) -> None:
        """Returns when they are to be seen. One that somebody else makes meanwhile is no error."""
        new = [NewTopic(topic.name, topic.partitions, topic.replication or -1, config=topic.config) for topic in topics]
        if not new:
            return
        for name, answer in self._admin.create_topics(new, operation_timeout=self._timeout_s).items():
            self._result(answer, f"cannot make {name}", KafkaError.TOPIC_ALREADY_EXISTS)
        self._await([topic.name for topic in topics])

    def _await(self, names: Sequence[str]) -> None:
        """The controller has made them; the brokers hear of it a moment later."""
        deadline = time.monotonic() + self._timeout_s
        while late := [topic.name for topic in self.missing() if topic.name in names]:
            if time.monotonic() > deadline:
                raise QueueUnavailable(f"Kafka at {self._where}: made, but not to be seen yet: {', '.join(late)}")
            time.sleep(POLL_S)

    def _describe(self) -> dict[str, Any]:
        """Kafka's descriptions of those that exist, by name."""
        names = [topic.name for topic in self._wanted]
        asked = self._admin.describe_topics(TopicCollection(names), request_timeout=self._timeout_s)
        answers = {
            name: self._result(answer, f"cannot look at {name}", KafkaError.UNKNOWN_TOPIC_OR_PART)
            for name, answer in asked.items()
        }
        return {name: answer for name, answer in answers.items() if answer is not None}

    def _configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
        asked = self._admin.describe_configs(resources, request_timeout=self._timeout_s)
        return {
            resource.name: {
                name: entry.value
                for name, entry in self._result(answer, f"cannot read the configuration of {resource.name}").items()
            }
            for resource, answer in asked.items()
        }

    def _result(self, answer: Future[Any], what: str, none: int | None = None) -> Any:
        """The answer; None where it is the error `none`. QueueUnavailable for every other."""
        try:
            return answer.result(self._timeout_s + 1.0)
        except KafkaException as e:
            error: KafkaError = e.args[0]
            if error.code() == none:
                return None
            self._admin.poll(0)  # hands over what was logged meanwhile
            is_local = error.code() < 0  # librdkafka's own: it got no answer, and its log tells why
            reason = self._said.why if is_local and self._said.why else error.str()
            raise QueueUnavailable(f"Kafka at {self._where}: {what}: {reason}") from None


class _LastWords:
    """A logger that keeps what librdkafka said last of a failed connection: a request's error is just "timed out"."""

    def __init__(self) -> None:
        self.why = ""

    def log(self, level: int, text: str, facility: str, client: str, message: str) -> None:
        """As confluent_kafka calls it. message: "[thrd:…]: what happened"."""
        if facility == "FAIL":
            self.why = message.partition("]: ")[2] or message


def _differences(topic: Topic, found: Any, config: dict[str, str]) -> list[Difference]:
    copies = min(len(partition.replicas) for partition in found.partitions)
    compared = [
        ("partitions", str(len(found.partitions)), str(topic.partitions)),
        ("replication", str(copies), str(topic.replication or copies)),
        *((name, config.get(name, ""), value) for name, value in topic.config.items()),
    ]
    return [Difference(*each) for each in compared if each[1] != each[2]]
