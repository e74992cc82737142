"""What a successful start tells to try next can be typed as it stands."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

from zpush import config
from zpush.master import report
from zpush.server.command import command

KEY = "0123456789abcdef"
DEFAULT = {"clients": "127.0.0.1:8080", "api": "127.0.0.1:8081", "peers": []}
OTHER = {"clients": "0.0.0.0:9090", "api": "127.0.0.1:9091", "peers": []}


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """zpush is on the path."""
    (tmp_path / "zpush").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("called")
@pytest.mark.parametrize(
    ("where", "overrides", "listen", "push"),
    [
        (DEFAULT, [], "zpush listen demo", "zpush push --client demo hello"),
        (
            OTHER,
            [],
            "zpush listen demo --url ws://127.0.0.1:9090",
            "zpush push --api http://127.0.0.1:9091 --client demo hello",
        ),
        (
            DEFAULT,
            ["auth.mode=jwt", "auth.keys_file=k"],
            'zpush listen demo --token "$(zpush token demo)"',
            "zpush push --client demo hello",
        ),
        (
            DEFAULT,
            ["auth.mode=jwt", "auth.jwks_file=k"],
            "zpush listen demo --token TOKEN",
            "zpush push --client demo hello",
        ),
        (OTHER, [f"api.keys={KEY}"], "zpush listen demo --url ws://127.0.0.1:9090", "zpush push --client demo hello"),
    ],
)
def test_commands_to_try(where: dict[str, str], overrides: list[str], listen: str, push: str) -> None:
    settings = config.load(None, {}, overrides)
    lines = report.started(settings, where, 1, 1).splitlines()
    assert [line.strip() for line in lines[-2:]] == [listen, push]
    assert lines[-4] == "Try in another terminal" + (", with the same configuration:" if overrides else ":")


def test_without_zpush_on_the_path_it_is_called_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv/bin/python"))
    assert shlex.split(command()) == [sys.executable, "-m", "zpush"]
    os.makedirs("venv/bin")
    Path("venv/bin/zpush").touch()
    assert command() == "venv/bin/zpush"
