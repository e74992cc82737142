"""Finding a command, one line for an error, exit codes, and a fast start."""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Callable

import pytest

from tests.support import run, run_zpush
from zpush import __version__
from zpush.cli import main as cli
from zpush.errors import ConfigError, MalformedMessage, StartupError, Unavailable


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in cli.COMMANDS)
    assert cli.main([]) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_has_its_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    assert f"usage: zpush {command}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"zpush {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["--nonsense"], ["config"], ["config", "shwo"], ["serve", "--wrokers", "2"]]
)
def test_wrong_usage_is_one_line_and_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("zpush")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("zpush.toml:1: no"), 2),
        (MalformedMessage("client is empty"), 2),
        (StartupError("port\ntaken"), 1),
        (Unavailable("away"), 1),
        (PermissionError(13, "Permission denied", "f"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_a_line_and_a_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "fail", _command(monkeypatch, fail))
    assert cli.main(["fail"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == (0 if isinstance(error, KeyboardInterrupt) else 1)


def test_an_error_of_our_own_making_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise KeyError("a bug")

    monkeypatch.setitem(cli.COMMANDS, "fail", _command(monkeypatch, fail))
    with pytest.raises(KeyError):
        cli.main(["fail"])


def _command(monkeypatch: pytest.MonkeyPatch, action: Callable[[argparse.Namespace], int]) -> cli.Command:
    module = types.ModuleType("zpush_tests_command")

    def configure(command: str, parser: argparse.ArgumentParser) -> None:
        parser.set_defaults(run=action)

    module.__dict__["configure"] = configure
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return cli.Command(module.__name__, "for a test")


def test_a_reader_that_left_is_no_traceback() -> None:
    done = run(
        "sh",
        "-c",
        f"{sys.executable} -m zpush config docs; echo $? >&2",
        stdout=_closed_pipe(),
        stderr=-1,
        capture_output=False,
    )
    assert done.stderr == "1\n"


def _closed_pipe() -> int:
    """The writing end of a pipe that nobody reads."""
    import os

    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("arguments", "code"), [(["config", "show"], 0), (["nonsense"], 2)])
def test_closed_standard_descriptors_change_nothing(closed: str, arguments: list[str], code: int) -> None:
    done = run("sh", "-c", f'exec "$0" -m zpush "$@" {closed}', sys.executable, *arguments)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert bool(done.stdout) is (code == 0 and ">&-" not in closed.split())


def test_help_loads_no_more_than_it_needs() -> None:
    code = "import sys; from zpush.cli.main import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = run(sys.executable, "-c", code)
    loaded = set(done.stderr.split())
    assert "zpush.cli.main" in loaded
    assert not loaded & {"zpush.config", "asyncio", "msgspec", "redis", "httpx", "uvloop", "zpush._fast", "logging"}


def test_as_a_module() -> None:
    assert run_zpush("--version").stdout == f"zpush {__version__}\n"
