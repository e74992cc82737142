"""The gate closes on what got worse: in theory, and on a deliberate slowdown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.check import callgrind
from benchmarks.check.__main__ import BASELINE
from benchmarks.check.gate import Kind, Measured, State, judge
from benchmarks.check.scripts import SCRIPTS
from tests.support import ROOT, lacking, run

SLOWER = Path(__file__).parent / "slower"


@pytest.mark.parametrize(
    ("kind", "value", "state"),
    [
        (Kind.FUNCTION, 105.0, State.SAME),
        (Kind.FUNCTION, 105.1, State.WORSE),
        (Kind.FUNCTION, 94.9, State.BETTER),
        (Kind.WORKER, 110.0, State.SAME),
        (Kind.WORKER, 110.1, State.WORSE),
        (Kind.MEMORY, 160.0, State.SAME),
        (Kind.MEMORY, 160.1, State.WORSE),
        (Kind.RATIO, 140.1, State.WORSE),
    ],
)
def test_a_figure_may_exceed_its_baseline_by_its_margin(kind: Kind, value: float, state: State) -> None:
    [verdict] = judge([Measured("x", value, kind)], {"x": 100.0}, same_environment=True)
    assert verdict.state is state
    assert verdict.stops == (state is State.WORSE)


def test_instructions_of_other_versions_are_held_loosely() -> None:
    measured = [
        Measured("x", 129.0, Kind.FUNCTION),
        Measured("y", 131.0, Kind.FUNCTION),
        Measured("z", 161.0, Kind.MEMORY),
    ]
    states = [v.state for v in judge(measured, dict.fromkeys("xyz", 100.0), same_environment=False)]
    assert states == [State.SAME, State.WORSE, State.WORSE]


def test_a_figure_without_a_baseline_stops() -> None:
    [verdict] = judge([Measured("x", 1.0, Kind.FUNCTION)], {}, same_environment=True)
    assert verdict.state is State.NEW and verdict.stops


def test_the_baseline_has_every_script() -> None:
    figures = json.loads(BASELINE.read_text())["figures"]
    whole = {"memory_per_connection", "worker_handshake", "worker_push", "processor_message"}
    assert set(SCRIPTS) | whole <= set(figures)


@pytest.mark.slow
def test_a_deliberate_slowdown_closes_the_gate(native: None, tmp_path: Path) -> None:
    if why_not := callgrind.missing():
        lacking(why_not)
    baseline = tmp_path / "baseline.json"
    assert check(baseline, "--update").returncode == 0
    assert check(baseline).returncode == 0
    slowed = check(baseline, env={**os.environ, "PYTHONPATH": f"{SLOWER}:{ROOT}"})
    assert slowed.returncode == 1
    assert "answer_head" in slowed.stdout.splitlines()[-1] and "build_frame" not in slowed.stdout.splitlines()[-1]


def check(baseline: Path, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = ["-m", "benchmarks.check", "--baseline", baseline, *options, "answer_head", "build_frame"]
    return run(sys.executable, *command, **more)
