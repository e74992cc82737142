"""[queue.kafka]: settings of ours, and all others as they are for librdkafka, from every source and without secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from zpush import config
from zpush.config import render
from zpush.config.loading import RESTS
from zpush.config.settings import Settings
from zpush.errors import ConfigError

SECRET = "tiny-secret"


def loaded(text: str, tmp_path: Path, environ: dict[str, str] | None = None, *overrides: str) -> Settings:
    path = tmp_path / "zpush.toml"
    path.write_text(text)
    return config.load(str(path), environ or {}, overrides)


def test_names_with_dots_quoted_or_not(tmp_path: Path) -> None:
    text = """
[queue.kafka]
replication = 3
"security.protocol" = "SASL_SSL"
sasl.mechanism = "PLAIN"
"socket.keepalive.enable" = true
fetch.queue.backoff.ms = 20
"retry.backoff.ms" = 0.5
"""
    kafka = loaded(text, tmp_path).queue.kafka
    assert kafka.replication == 3
    assert kafka.client == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "socket.keepalive.enable": "true",
        "fetch.queue.backoff.ms": "20",
        "retry.backoff.ms": "0.5",
    }


def test_later_sources_win_for_each_name(tmp_path: Path) -> None:
    environ = {"ZPUSH_QUEUE__KAFKA__SASL__USERNAME": "b", "ZPUSH_QUEUE__KAFKA__REPLICATION": "2"}
    text = '[queue]\nkafka = { "sasl.username" = "a", "linger.ms" = 5, "client.rack" = "x" }\n'
    settings = loaded(text, tmp_path, environ, "queue.kafka.linger.ms=7")
    assert settings.queue.kafka.client == {"sasl.username": "b", "linger.ms": "7", "client.rack": "x"}
    assert settings.queue.kafka.replication == 2
    assert settings.origin("queue.kafka.sasl.username") == "ZPUSH_QUEUE__KAFKA__SASL__USERNAME"
    assert settings.origin("queue.kafka.linger.ms") == "--set"
    assert settings.origin("queue.kafka.client.rack") == f"{tmp_path}/zpush.toml:2"


def test_the_line_of_each_is_known(tmp_path: Path) -> None:
    settings = loaded('[queue.kafka]\n\n"ssl.ca.location" = "/ca"\nsasl.username = "u"\n', tmp_path)
    assert settings.origin("queue.kafka.ssl.ca.location").endswith("zpush.toml:3")
    assert settings.origin("queue.kafka.sasl.username").endswith("zpush.toml:4")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[queue.kafka]\nreplicaton = 3\n", "zpush.toml:2: .*did you mean queue.kafka.replication?"),
        ("[queue.kafka]\nreplication = 101\n", "zpush.toml:2: queue.kafka.replication is 101; allowed is a whole"),
        ("[queue.kafka]\n'linger.ms' = [1]\n", "zpush.toml:2: queue.kafka.linger.ms is .*allowed is a string"),
        ("[queue.kafka]\n'linger ms' = 1\n", 'zpush.toml:.*"queue.kafka.linger ms" is not a setting'),
        ("[queue.kafka]\n'*' = 1\n", 'is not a setting'),
        ("[queue]\nkafka = 1\n", 'zpush.toml:2: "queue.kafka" is not a setting'),
        ("[queue.kafka.sasl]\npassword = ['" + SECRET + "']\n", r"queue.kafka.sasl.password is \*\*\*; allowed"),
        ("[queue.kafka]\n'a.b' = '" + "x" * 70_000 + "'\n", "queue.kafka.a.b is .*; allowed is a string"),
        ("[server.x]\n'a.b' = 1\n", '"server.x" is not a setting'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        loaded(text, tmp_path)
    assert SECRET not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    text = f"""
[queue.kafka]
"sasl.password" = "{SECRET}"
"ssl.key.pem" = '''
-----BEGIN {SECRET}
'''
"sasl.oauthbearer.client.secret" = "{SECRET}"
"sasl.oauthbearer.config" = "k={SECRET}"
"sasl.oauthbearer.token.endpoint.url" = "https://user:{SECRET}@host/"
"sasl.password_file" = "/run/password"
"ssl.key.location" = "/run/key"
"""
    settings = loaded(text, tmp_path)
    assert SECRET not in repr(settings)
    assert SECRET not in render.show_text(settings)
    shown = {row["key"]: row["value"] for row in render.show_rows(settings)}
    assert shown["queue.kafka.sasl.password"] == shown["queue.kafka.ssl.key.pem"] == '"***"'
    assert shown["queue.kafka.sasl.password_file"] == '"/run/password"', "a path is none"
    assert shown["queue.kafka.ssl.key.location"] == '"/run/key"'
    assert SECRET in settings.queue.kafka.client["ssl.key.pem"]


def test_only_what_was_given_is_shown() -> None:
    keys = [row["key"] for row in render.show_rows(config.load(None, {}, []))]
    assert not any("*" in key for key in keys)
    assert "queue.kafka.retention" in keys
    assert [rest.section for rest in RESTS] == ["queue.kafka"]


def test_the_group_follows_from_prefix_and_region() -> None:
    assert config.load(None, {}, []).queue.kafka.group == "zpush.local"
    assert config.load(None, {}, ["queue.prefix=p", "peers.region=eu"]).queue.kafka.group == "p.eu"
    assert config.load(None, {}, ["queue.kafka.group=mine"]).queue.kafka.group == "mine"


def test_what_may_still_be_delivered_is_kept_for_as_long() -> None:
    config.load(None, {}, ["processor.max_age=2d"])
    with pytest.raises(ConfigError, match=r"queue\.kafka\.retention is out of bounds.*processor\.max_age"):
        config.load(None, {}, ["queue.url=kafka://h", "processor.max_age=2d"])
