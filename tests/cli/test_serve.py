"""What `serve` and `process` hand to the master. That the master runs is tested with the master."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from zpush import log
from zpush.cli.main import main
from zpush.config import Settings
from zpush.master import master


class Run(NamedTuple):
    settings: Settings
    processors_only: bool
    load: Callable[[], Settings]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Runs that were asked of the master; the master itself is left out, and so is the logging's set-up."""
    found: list[Run] = []

    def run(settings: Settings, processors_only: bool = False, load: Callable[[], Settings] | None = None) -> int:
        assert load is not None
        found.append(Run(settings, processors_only, load))
        return 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(master, "main", run)
    monkeypatch.setattr(log, "setup", lambda *arguments: None)
    monkeypatch.setattr(log, "set_process", lambda name: None)
    return found


def test_serve(runs: list[Run]) -> None:
    assert main(["serve", "--workers", "3", "--set", "server.workers=2", "--set", "server.backlog=9"]) == 0
    run = runs[0]
    assert (run.settings.server.workers, run.settings.server.backlog, run.processors_only) == (3, 9, False)


def test_process(runs: list[Run]) -> None:
    assert main(["process", "--priorities", "high,normal"]) == 0
    run = runs[0]
    assert (run.settings.processor.priorities, run.processors_only) == (("high", "normal"), True)


def test_a_reload_reads_the_file_again_under_the_same_options(runs: list[Run], tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text("[server]\nbacklog = 5\nworkers = 1\n")
    assert main(["serve", "-c", str(path), "--workers", "3"]) == 0
    path.write_text("[server]\nbacklog = 6\nworkers = 1\n")
    again = runs[0].load()
    assert (runs[0].settings.server.backlog, again.server.backlog, again.server.workers) == (5, 6, 3)
