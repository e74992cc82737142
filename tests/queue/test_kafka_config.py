"""What Kafka clients are made with: brokers, what is passed on, what is not the user's to set, secrets from files."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from confluent_kafka import Producer

from zpush.config.settings import Kafka
from zpush.errors import ConfigError
from zpush.queue.kafka_config import OWN, brokers, client_config, opened

URL = "kafka://127.0.0.1:1"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("kafka://a:1", ["a:1"]),
        ("kafka://a", ["a:9092"]),
        ("kafka://a:1,b, c.example.com:3/", ["a:1", "b:9092", "c.example.com:3"]),
        ("kafka://10.0.0.1:9092,[::1]:9093,[::1]", ["10.0.0.1:9092", "[::1]:9093", "[::1]:9092"]),
    ],
)
def test_brokers(url: str, found: list[str]) -> None:
    assert brokers(url) == found


@pytest.mark.parametrize(
    "url",
    [
        "kafka://", "kafka:a", "redis://a", "kafka://a:0", "kafka://a:65536", "kafka://a:x", "kafka://a,,b", "kafka://:1",
        "kafka://a/b", "kafka://::1", "kafka://[::1", "kafka://[x]:1", "kafka://a?x=1",
    ],
)  # fmt: skip
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="Kafka URL"):
        brokers(url)


def test_credentials_have_another_place() -> None:
    with pytest.raises(ConfigError, match="sasl.username") as caught:
        brokers("kafka://user:tiny-secret@host:9092")
    assert "tiny-secret" not in str(caught.value)


def test_what_is_passed_on_reaches_the_client() -> None:
    found = client_config(URL, Kafka(client={"linger.ms": "7", "client.rack": "r"}))
    assert found["bootstrap.servers"] == "127.0.0.1:1"
    assert found["linger.ms"] == "7"
    assert found["client.rack"] == "r"


@pytest.mark.parametrize("name", ["acks", "group.id", "bootstrap.servers", "enable.auto.commit", "error_cb", "logger"])
def test_what_promises_rest_on_is_not_the_users(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"queue\.kafka\.{name} is"):
        client_config(URL, Kafka(client={name: "x"}))


def test_nothing_is_refused_that_librdkafka_does_not_know() -> None:
    """So that OWN holds no misspelling: Python's objects aside, librdkafka knows each name."""
    for name in (name for name, why in OWN.items() if "object" not in why):
        try:
            opened(Producer, {"bootstrap.servers": "127.0.0.1:1", name: "x"})
        except (ConfigError, TypeError) as e:
            assert "No such configuration property" not in str(e), name


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lingr.ms": "1"}, 'No such configuration property: "lingr.ms"'),
        ({"linger.ms": "soon"}, 'Invalid value for configuration property "queue.buffering.max.ms"'),
        ({"compression.type": "rar"}, 'Invalid value "rar" for configuration property'),
        ({"socket.timeout.ms": "1"}, "outside allowed range"),
        ({"security.protocol": "ssl", "ssl.ca.location": "/none"}, "ssl.ca.location failed"),
        ({"security.protocol": "sasl_plaintext", "sasl.mechanism": "PLAIN"}, "sasl.username and sasl.password must be"),
        ({"security.protocol": "sasl_plaintext", "sasl.mechanism": "GUESS"}, "Unsupported SASL mechanism: GUESS"),
    ],
)
def test_librdkafka_says_itself_what_is_wrong(settings: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        client_config(URL, Kafka(client=settings))
    assert str(caught.value).startswith("[queue.kafka]: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_secrets_from_files(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("tiny-secret\n")
    path.chmod(0o600)
    found = client_config(URL, Kafka(client={"sasl.password_file": str(path)}))
    assert found["sasl.password"] == "tiny-secret"
    assert "sasl.password_file" not in found
    with pytest.raises(ConfigError, match="both set"):
        client_config(URL, Kafka(client={"sasl.password_file": str(path), "sasl.password": "x"}))
    with pytest.raises(ConfigError, match="No such file"):
        client_config(URL, Kafka(client={"sasl.password_file": f"{path}.none"}))
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        client_config(URL, Kafka(client={"sasl.password_file": str(path)}))


@pytest.mark.parametrize(("level", "said"), [(logging.INFO, False), (logging.DEBUG, True)])
def test_lost_connections_are_no_news(caplog: pytest.LogCaptureFixture, level: int, said: bool) -> None:
    with caplog.at_level(level, logger="zpush.kafka"):
        producer = opened(Producer, {**client_config(URL, Kafka()), "group.id": "a consumer's"})
        for _ in range(100):
            producer.poll(0.1)
            if caplog.records:
                break
            if not said and _ == 5:
                break
    assert bool(caplog.records) is said, caplog.text
    logging.getLogger("zpush.kafka").error("%s [%s] %s", "SASL", "rdkafka#producer-1", "other things are told")
    assert "other things are told" in caplog.text
