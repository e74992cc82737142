"""What every Kafka client of zpush is made with: where, as whom, and what the user passes on to librdkafka.

Rules. librdkafka alone judges its settings: a wrong one is told in its own words, before anything is connected. What
the queue's promises rest on is not the user's to set; each such setting says why. Secrets are read here, from the files
that `*_file` names, and reach nothing but librdkafka. What librdkafka logs about lost connections again and again is
logged at the level debug: that the broker is away, zpush says itself, once.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from confluent_kafka import KafkaException, Producer

from zpush.config.secrets import read_secret_file
from zpush.errors import ConfigError

DEFAULT_PORT = 9092
FROM_FILE = "_file"
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")
_T = TypeVar("_T")

_BY_ZPUSH = "is zpush's own: what was taken is kept, in order, until its outcome is known"
OWN = {
    "bootstrap.servers": "is what queue.url says",
    "metadata.broker.list": "is what queue.url says",
    "group.id": "is what queue.kafka.group says",
    "group.protocol": "is what queue.kafka.protocol says",
    **dict.fromkeys(
        (
            "acks", "request.required.acks", "enable.idempotence", "enable.gapless.guarantee", "transactional.id",
            "max.in.flight", "max.in.flight.requests.per.connection", "partitioner", "delivery.report.only.error",
            "enable.auto.commit", "auto.commit.enable", "auto.commit.interval.ms", "enable.auto.offset.store",
            "auto.offset.reset", "enable.partition.eof", "partition.assignment.strategy", "group.instance.id",
            "allow.auto.create.topics", "statistics.interval.ms",
        ),
        _BY_ZPUSH,
    ),
    # Where Python wants an object; librdkafka refuses its own of this kind itself.
    **dict.fromkeys(
        (
            "logger", "error_cb", "stats_cb", "throttle_cb", "oauth_cb", "on_delivery", "on_commit",
            "default.topic.config",
        ),
        "is an object, which no configuration can hold",
    ),
}  # fmt: skip


class KafkaSettings(Protocol):
    """What is read of [queue.kafka]."""

    @property
    def group(self) -> str: ...

    @property
    def protocol(self) -> str: ...

    @property
    def mirrored(self) -> bool: ...

    @property
    def client(self) -> Mapping[str, str]:
        """librdkafka's own settings."""
        ...


def client_config(url: str, kafka: KafkaSettings) -> dict[str, Any]:
    """What is the same for every client. ConfigError where the URL or a setting is wrong, or a file cannot be read."""
    passed_on = dict(_resolved(kafka.client))
    for name in passed_on:
        if name in OWN:
            raise ConfigError(f"queue.kafka.{name} {OWN[name]}")
    opened(Producer, {**passed_on, "logger": _logger})  # without brokers it connects to nothing: only to be judged
    return {**passed_on, "bootstrap.servers": ",".join(brokers(url)), "logger": _logger}


def opened(kind: Callable[[dict[str, Any]], _T], config: dict[str, Any]) -> _T:
    """A client. ConfigError with librdkafka's own words where it does not take its settings; nothing is awaited."""
    try:
        return kind(config)
    except KafkaException as e:
        raise ConfigError(f"[queue.kafka]: {e.args[0].str().strip()}") from None


def brokers(url: str) -> list[str]:
    """host:port of each broker that kafka://a:9092,b names. ConfigError, which shows no credentials."""
    scheme, _, rest = url.partition("://")
    if scheme != "kafka" or not rest:
        raise ConfigError("a Kafka URL is kafka://host:port, with commas between several brokers")
    if "@" in rest:
        raise ConfigError(
            "a Kafka URL holds no credentials: set sasl.username and sasl.password_file under [queue.kafka]"
        )
    return [_broker(each.strip()) for each in rest.rstrip("/").split(",")]


def _broker(text: str) -> str:
    """host, host:port or [IPv6]:port, with its port."""
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = host or text, str(DEFAULT_PORT)
    if not _is_host(host) or not re.fullmatch(r"\d{1,5}", port, re.ASCII) or not 0 < int(port) < 65536:
        raise ConfigError(f"the Kafka URL names a broker that is not host:port: {text[:60]!r}")
    return f"{host}:{port}"


def _is_host(text: str) -> bool:
    if not text.startswith("["):
        return _HOST.fullmatch(text) is not None
    try:
        ipaddress.IPv6Address(text[1:-1])
    except ValueError:
        return False
    return text.endswith("]")


def _resolved(given: Mapping[str, str]) -> Mapping[str, str]:
    """With the content of files in place of their names."""
    resolved = {}
    for name, value in given.items():
        own_name = name.removesuffix(FROM_FILE)
        if own_name != name and own_name in given:
            raise ConfigError(f"queue.kafka.{name} and queue.kafka.{own_name} are both set; allowed is one of them")
        resolved[own_name] = _read(name, value) if own_name != name else value
    return resolved


def _read(name: str, path: str) -> str:
    try:
        return read_secret_file(path).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"queue.kafka.{name}: {path} is not UTF-8") from None


class _OnlyNews(logging.Filter):
    """Failed connections, and settings that only the other kind of client has, are nobody's news."""

    FACILITIES = ("FAIL", "ERROR", "REQTMOUT", "CONFWARN", "SESSTMOUT", "MAXPOLL", "GETPID", "FATAL")

    def filter(self, record: logging.LogRecord) -> bool:
        # confluent_kafka logs "%s [%s] %s" with librdkafka's facility first.
        if isinstance(record.args, tuple) and record.args and record.args[0] in self.FACILITIES:
            record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return _logger.isEnabledFor(record.levelno)


_logger = logging.getLogger("zpush.kafka")
_logger.addFilter(_OnlyNews())
