"""`zpush config`, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import run_zpush
from zpush.cli.main import main

KEY = "k" * 16
WITH_SERVERS = ["--set", "auth.mode=dev", "--set", "peers.secret=a-secret-of-this-test"]  # that are not embedded


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZPUSH_CONFIG", raising=False)


def test_show_names_origins_and_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "zpush.toml").write_text(f'[api]\nkeys = ["{KEY}"]\n')
    monkeypatch.setenv("ZPUSH_SERVER__WORKERS", "3")
    assert main(["config", "show", "--set", "connections.keepalive=10s"]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert lines["api.keys"].endswith("# zpush.toml:2") and '["***"]' in lines["api.keys"]

    assert lines["server.workers"].endswith("# ZPUSH_SERVER__WORKERS")
    assert lines["connections.keepalive"].endswith("# --set") and '"10s"' in lines["connections.keepalive"]
    assert lines["server.backlog"].endswith("# default")
    assert KEY not in out


def test_show_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--json"]) == 0
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["connections.max_age"] == {"key": "connections.max_age", "value": '"30m"', "origin": "default"}


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out == "built-in defaults: ok\n"
    (tmp_path / "zpush.toml").write_text("[server]\nwrokers = 2\n")
    assert main(["config", "check"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == 'zpush: zpush.toml:2: "server.wrokers" is not a setting; did you mean server.workers?\n'
    assert main(["config", "check", "-c", "other.toml"]) == 2
    assert capsys.readouterr().err.startswith("zpush: other.toml: cannot read the configuration: No such file")


@pytest.mark.parametrize("key", ["api.keys_file", "auth.keys_file", "peers.secret_file"])
def test_check_reads_the_files_that_are_named(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    used = ["--set", "auth.mode=jwt"] if key == "auth.keys_file" else []
    assert main(["config", "check", *used, "--set", f"{key}=none"]) == 2
    assert capsys.readouterr().err == "zpush: none: cannot read the secret: No such file or directory\n"


@pytest.mark.parametrize("section", ["registry", "queue"])
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://u:12/s3cret@h", "is a database number"),
        ("redis+sentinel://u:12?s3cret@h/main", "escape special characters as %XX"),
        ("redis://u:s3cret@h?x=1", "an option that is not known: 'x'"),
        ("redis+sentinel://u:s3cret@h/main/x", "is a database number"),
    ],
)
def test_check_judges_urls_as_serve_does(
    section: str, url: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "check", *WITH_SERVERS, "--set", f"{section}.url={url}"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and reason in captured.err
    assert "s3cret" not in captured.err and "12" not in captured.err


def test_check_takes_what_serve_takes(capsys: pytest.CaptureFixture[str]) -> None:
    for url in ("redis://u:p@h:7/2", "unix:///run/s.sock", "rediss+sentinel://a,b/main"):
        assert (
            main(["config", "check", *WITH_SERVERS, "--set", f"registry.url={url}", "--set", f"queue.url={url}"]) == 0
        )
    assert main(["config", "check", *WITH_SERVERS, "--set", "registry.url=redis+cluster://a,b"]) == 0


def test_default_is_a_file_that_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "default"]) == 0
    (tmp_path / "zpush.toml").write_text(capsys.readouterr().out)
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out == "zpush.toml: ok\n"


def test_docs_name_every_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "docs"]) == 0
    out = capsys.readouterr().out
    assert "## `[connections]`" in out and "`max_age`" in out


def test_wrong_configuration_exits_with_2_for_serve_too(tmp_path: Path) -> None:
    done = run_zpush("serve", "--workers", "many", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith('zpush: --set: server.workers is "many"; allowed is a whole number')
