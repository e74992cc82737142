"""Sources, precedence and origins; and one line for whatever is wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from zpush import config
from zpush.config import render
from zpush.config.settings import SECTIONS, SETTINGS
from zpush.errors import ConfigError

KEY = "k" * 16


def write(folder: Path, text: str) -> str:
    path = folder / "zpush.toml"
    path.write_text(text)
    return str(path)


def complaint(
    path: str | None = None, environ: dict[str, str] | None = None, overrides: list[str] | None = None
) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(path, environ or {}, overrides or [])
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_defaults_need_nothing() -> None:
    settings = config.load(None, {}, [])
    assert settings.server.bind == "127.0.0.1:8080"
    assert settings.connections.max_age_s == 1800.0
    assert settings.embedded
    assert settings.auth.mode == "dev"
    assert settings.server.control_socket == "./zpush-data/control.sock"
    assert settings.origin("connections.max_age") == "default"


def test_later_sources_win_and_origins_tell(tmp_path: Path) -> None:
    path = write(tmp_path, '[server]\nworkers = 2\nbacklog = 10\n\n[connections]\nmax_age = "10m"\nkeepalive = 20\n')
    environ = {"ZPUSH_SERVER__BACKLOG": "20", "ZPUSH_CONNECTIONS__MAX_AGE": "20m", "ZPUSH_CONFIG": "x", "HOME": "/"}
    settings = config.load(path, environ, ["connections.max_age=30s", "connections.max_age_jitter=1s"])
    assert settings.server.workers == 2
    assert settings.origin("server.workers") == f"{path}:2"
    assert settings.server.backlog == 20
    assert settings.origin("server.backlog") == "ZPUSH_SERVER__BACKLOG"
    assert settings.connections.max_age_s == 30.0
    assert settings.origin("connections.max_age") == "--set"
    assert settings.connections.keepalive_s == 20.0
    assert settings.origin("connections.keepalive") == f"{path}:7"


def test_lists_as_text() -> None:
    settings = config.load(None, {"ZPUSH_API__KEYS": f'["{KEY}", "{KEY}2"]'}, ["processor.priorities=high, low"])
    assert settings.api.keys == (KEY, KEY + "2")
    assert settings.processor.priorities == ("high", "low")


def test_data_dir_leads_to_the_sockets(tmp_path: Path) -> None:
    settings = config.load(None, {}, [f"server.data_dir={tmp_path}"])
    assert settings.registry_url() == settings.queue_url() == f"unix://{tmp_path}/valkey.sock"
    assert settings.server.control_socket == f"{tmp_path}/control.sock"


def test_a_url_of_ones_own() -> None:
    overrides = ["registry.url=redis://r:1/0", "queue.url=redis://q:2", "auth.mode=dev", f"peers.secret={KEY}"]
    settings = config.load(None, {}, overrides)
    assert not settings.embedded
    assert (settings.registry_url(), settings.queue_url()) == ("redis://r:1/0", "redis://q:2")


def test_settings_cannot_be_changed() -> None:
    settings = config.load(None, {}, [])
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.server.workers = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("[server]\n\nworker = 2\n", 3, '"server.worker" is not a setting; did you mean server.workers?'),
        ("[servers]\n", 1, '"servers" is not a setting; did you mean server?'),
        ("[nonsense]\nx = 1\n", 1, "sections are server, connections"),
        ("[api]\n# keys\nzzzzzz = 1\n", 3, "allowed are api.bind, api.keys"),
        ("workers = 2\n", 1, '"workers" is not a setting'),
        ('[connections]\nmax_age = "30 parsecs"\n', 2, 'is "30 parsecs"; allowed is a duration from 1s to 7d'),
        ('[connections]\nmax_age = "64KiB"\n', 2, 'is "64KiB"; allowed is a duration'),
        ("[connections]\nmax_age = true\n", 2, "is true; allowed is a duration"),
        ("[connections]\n'head_fields' = 7\n", 2, "is 7; allowed is a whole number from 8 to 1000"),
        ("server.bind = '8080'\n", 1, 'server.bind is "8080"; allowed is host:port'),
        ("server = { bind = 8080 }\n", 1, "server.bind is 8080"),
        ("[server]\nbind = 2024-01-01\n", 2, 'is "2024-01-01"'),
        ("[queue]\nurl = 'http://example.com'\n", 2, 'allowed is "embedded" or a URL that starts with redis://'),
        ("[registry]\nprefix = 'a{b}'\n", 2, "allowed is letters, digits"),
        ("[processor]\npriorities = []\n", 2, "allowed is a list of 1 to 3 different values"),
        ("[processor]\npriorities = ['high', 'high']\n", 2, "allowed is a list of 1 to 3 different values"),
        ("[processor]\nlow_floor = 0.6\n", 2, "is 0.6; allowed is a number from 0.0 to 0.5"),
        ("[log]\nlevel = 'loud'\n", 2, 'allowed is "debug" or "info"'),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    path = write(tmp_path, text)
    found = complaint(path)
    assert found.startswith(f"{path}:{line}: ")
    assert says in found


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[server\n", "not valid TOML"),
        (b"\xff\xfe", "not valid UTF-8 at byte 0"),
        (b"#" * (1 << 20) + b"#", "larger than"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "zpush.toml"
    path.write_bytes(content)
    assert says in complaint(str(path))
    assert "No such file" in complaint(str(tmp_path / "none.toml"))
    assert "Is a directory" in complaint(str(tmp_path))


def test_what_is_wrong_elsewhere_is_said_with_its_name() -> None:
    assert complaint(environ={"ZPUSH_SERVER__WORKERS": "two"}).startswith(
        'ZPUSH_SERVER__WORKERS: server.workers is "two"'
    )
    assert "did you mean server.workers?" in complaint(environ={"ZPUSH_SERVER__WORKRES": "2"})
    assert (
        complaint(overrides=["server.workers"]) == '--set: "server.workers" has no value; allowed is section.key=value'
    )
    assert "allowed is true or false" in complaint(overrides=["auth.delayed=yes"])
    assert "allowed is a list" in complaint(overrides=['api.keys=["a'])
    assert len(complaint(overrides=["server.bind=" + "x" * 100_000])) < 300


def test_a_value_that_is_overridden_is_checked_too(tmp_path: Path) -> None:
    assert "server.workers is 1000" in complaint(
        write(tmp_path, "[server]\nworkers = 1000\n"), {}, ["server.workers=1"]
    )


@pytest.mark.parametrize(
    "override",
    [
        "api.keys=tiny-secret",
        'api.keys=["tiny-secret"',
        "peers.secret=tiny-secret",
        "registry.url=rediss+x://u:tiny-secret@h",
    ],
)
def test_no_secret_in_a_complaint(override: str) -> None:
    assert "tiny-secret" not in complaint(overrides=[override])


def test_no_secret_in_repr_or_show(tmp_path: Path) -> None:
    overrides = [
        f"api.keys={KEY}",
        f"peers.secret={KEY}",
        f"registry.url=redis://user:{KEY}@host:1/0?password={KEY}&x=1",
        f"queue.url=unix:///s.sock?password={KEY}",
        "auth.mode=dev",
    ]
    settings = config.load(None, {}, overrides)
    assert KEY not in repr(settings)
    assert KEY not in render.show_text(settings)
    rows = {row["key"]: row for row in render.show_rows(settings)}
    assert rows["registry.url"]["value"] == '"redis://user:***@host:1/0?password=***&x=1"'
    assert rows["api.keys"] == {"key": "api.keys", "value": '["***"]', "origin": "--set"}


def test_locate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config.locate(None, {}) is None
    write(tmp_path, "")
    assert config.locate(None, {}) == "zpush.toml"
    assert config.locate(None, {"ZPUSH_CONFIG": "b"}) == "b"
    assert config.locate("a", {"ZPUSH_CONFIG": "b"}) == "a"


def test_every_setting_has_a_text_and_reads_back() -> None:
    settings = config.load(None, {}, [])
    for setting in SETTINGS.values():
        declaration = setting.declaration
        assert declaration.text.endswith("."), setting.key
        assert getattr(SECTIONS[setting.section], setting.attribute) == declaration.default
        render.value_of(settings, setting)
