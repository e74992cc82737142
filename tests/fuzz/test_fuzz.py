"""The short run: every target for a moment, everything that was ever found, and whether the search finds at all."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.fuzz.runner import FOUND, Current, left_behind, load, search, target_name
from tests.fuzz.target import Target, damaged, pieces
from tests.fuzz.targets import TARGETS
from tests.support import run


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_found_at_once(name: str) -> None:
    finding = search(TARGETS[name], TARGETS[name].examples, random.randrange(1 << 32))
    assert finding is None, f'{finding.error}\nmake fuzz ARGS="--replay {finding.keep()}"'


@pytest.mark.parametrize("path", sorted(FOUND.glob("*.txt")), ids=lambda path: path.stem)
def test_what_was_found_stays_mended(path: Path) -> None:
    target = TARGETS[target_name(path)]
    target.check(load(path))


def _never_seven(value: tuple[int, bytes]) -> None:
    """No number past six."""
    if value[0] > 6:
        raise ValueError("too large")


PLANTED = Target("planted", st.tuples(st.integers(), st.binary()), _never_seven, 1000)


def test_a_planted_defect_is_found_made_small_kept_and_replayed(tmp_path: Path) -> None:
    tried: list[object] = []
    finding = search(PLANTED, PLANTED.examples, 1, tried.append)
    assert finding is not None
    assert finding.input == (7, b""), "the smallest"
    assert finding.input in tried
    path = finding.keep(tmp_path)
    assert path.read_text().startswith("# ValueError: too large")
    assert (target_name(path), load(path)) == ("planted", (7, b""))


def test_the_input_at_hand_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "planted-1.current"
    current = Current(path)
    current((1, b"a long one"))
    current((2, b"#"))
    assert left_behind(tmp_path) == [], "its process lives"
    os.close(current.fd)  # as the end of a process does
    [left] = left_behind(tmp_path)
    assert (target_name(left), load(left)) == ("planted", (2, b"#"))
    assert not path.exists()


def test_the_command_runs_a_target_and_replays_a_file(tmp_path: Path) -> None:
    done = run(sys.executable, "-m", "tests.fuzz", "--seconds", "0", "--seed", "1", "leases", "hello", timeout_s=60.0)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" 100 examples") == 2, "each has its turn, though the time is over"
    good = tmp_path / "leases-good.txt"
    good.write_text("b'1 5 node user'\n")
    assert run(sys.executable, "-m", "tests.fuzz", "--replay", good).returncode == 0
    bad = tmp_path / "leases-bad.txt"
    bad.write_text("'no bytes at all'\n")
    assert run(sys.executable, "-m", "tests.fuzz", "--replay", bad).returncode == 1
    assert run(sys.executable, "-m", "tests.fuzz", "nothing").returncode == 2


def test_pieces_and_wounds() -> None:
    assert pieces(b"abc", ()) == [b"a", b"b", b"c"]
    assert pieces(b"abc", (5, 1)) == [b"a", b"", b"bc"]
    seen: set[bytes] = set()
    search(Target("wounds", damaged(st.just(b"abcdef")), seen.add, 0), 200, 1)
    assert b"abcdef" in seen
    assert len(seen) > 50
