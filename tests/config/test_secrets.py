"""Secrets in files: read with care, generated once."""

from __future__ import annotations

import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from zpush import config
from zpush.config import secrets
from zpush.config.render import show_text
from zpush.errors import ConfigError
from zpush.store.url import read_url

SECRET = b"s" * 32


def test_line_ends_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\r\n\n")
    path.chmod(0o600)
    assert config.read_secret_file(str(path)) == SECRET


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_an_open_file_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    path.chmod(mode)
    with caplog.at_level(logging.WARNING, logger="zpush"):
        assert config.read_secret_file(str(path)) == SECRET
    assert (f"chmod 600 {path}" in caplog.text) is warned
    assert SECRET.decode() not in caplog.text


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "is empty"), (b"\n", "is empty"), (b"x" * (1 << 20) + b"x", "larger than")]
)
def test_files_that_hold_no_secret(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=says):
        config.read_secret_file(str(path))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        config.read_secret_file(str(tmp_path / "none"))


def test_api_keys_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("a" * 16 + "\n\n" + "b" * 20 + "\n")
    path.chmod(0o600)
    assert config.api_keys(config.load(None, {}, [f"api.keys_file={path}"])) == ("a" * 16, "b" * 20)
    path.write_text(f"operate:{'a' * 16}\npush:push:{'b' * 11}\n")
    settings = config.load(None, {}, [f"api.keys_file={path}"])
    assert config.api_keys(settings) == (f"operate:{'a' * 16}", f"push:push:{'b' * 11}")
    assert [config.scoped(key)[0] for key in config.api_keys(settings)] == ["a" * 16, f"push:{'b' * 11}"]


LONG = "s3cret-" + "x" * 9


@pytest.mark.parametrize(
    ("lines", "number", "says"),
    [
        ([LONG, "", "s3cret"], 3, "allowed is 16 to 256"),
        (["operate:s3cret12"], 1, "allowed is 16 to 256"),
        (["push:" + LONG[1:]], 1, "allowed is 16 to 256"),
        (["s3cret " + LONG], 1, "allowed is 16 to 256"),
        (["s3cret-ü" + LONG], 1, "allowed is 16 to 256"),
        (["", LONG, LONG], 3, "the key of line 2 again"),
        (["read:" + LONG, "push:" + LONG], 2, "the key of line 1 again"),
        ([LONG, "", "operate:" + LONG], 3, "the key of line 1 again"),
    ],
)
def test_what_is_no_api_key_is_named_by_its_line(tmp_path: Path, lines: list[str], number: int, says: str) -> None:
    path = tmp_path / "keys"
    path.write_text("\n".join(lines))
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=says) as refused:
        config.api_keys(config.load(None, {}, [f"api.keys_file={path}"]))
    assert str(refused.value).startswith(f"{path}:{number}: ")
    assert "s3cret" not in str(refused.value)


def test_a_file_without_a_key(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(" \n")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="holds no key"):
        config.api_keys(config.load(None, {}, [f"api.keys_file={path}"]))


def test_a_generated_secret_is_the_same_for_all(tmp_path: Path) -> None:
    settings = config.load(None, {}, [f"server.data_dir={tmp_path}"])
    with ThreadPoolExecutor(8) as pool:
        secrets = set(pool.map(lambda _: config.peers_secret(settings), range(32)))
    assert len(secrets) == 1
    path = tmp_path / "peers.secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["peers.secret"]


def test_a_given_secret_wins(tmp_path: Path) -> None:
    settings = config.load(None, {}, [f"server.data_dir={tmp_path}", f"peers.secret={SECRET.decode()}"])
    assert config.peers_secret(settings) == SECRET
    path = tmp_path / "mine"
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="at least 16 bytes"):
        config.peers_secret(config.load(None, {}, [f"peers.secret_file={path}"]))


def test_nowhere_to_put_a_generated_secret(tmp_path: Path) -> None:
    settings = config.load(None, {}, [f"server.data_dir={tmp_path}/none"])
    with pytest.raises(ConfigError, match="cannot write"):
        config.peers_secret(settings)


# Passwords of Redis-like servers


def of_stores(*overrides: str) -> config.Settings:
    urls = ["registry.url=redis+sentinel://push@r,s/main?sentinel_username=watch", "queue.url=rediss://q:1/2"]
    return config.load(None, {}, [*urls, "auth.mode=dev", f"peers.secret={SECRET.decode()}", *overrides])


def test_passwords_are_put_into_their_places(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes(b"p@ss/w:\xc3\xb6rd?\n")
    path.chmod(0o600)
    settings = of_stores(
        f"registry.password_file={path}", "registry.sentinel_password=own", f"queue.password_file={path}"
    )
    escaped = "p%40ss%2Fw%3A%C3%B6rd%3F"
    sentinels = f"redis+sentinel://push:{escaped}@r,s/main?sentinel_username=watch&sentinel_password=own"
    assert secrets.registry_url(settings) == sentinels
    assert secrets.queue_url(settings) == f"rediss://:{escaped}@q:1/2"
    assert read_url(sentinels).server.password == "p@ss/w:örd?"
    assert secrets.registry_url(of_stores()) == of_stores().registry.url


def test_a_password_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes(b"\xff\xfe")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="not valid UTF-8"):
        secrets.registry_url(of_stores(f"registry.password_file={path}"))


def test_no_password_is_shown() -> None:
    settings = of_stores(
        "registry.password=tiny-secret", "registry.sentinel_password=tiny-secret", "queue.password=tiny-secret"
    )
    assert "tiny-secret" not in show_text(settings) + repr(settings)
    assert "tiny-secret" in secrets.registry_url(settings)
