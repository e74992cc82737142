"""The scoreboard: rows, sums, and what remains of the dead."""

from __future__ import annotations

import os

import pytest

from zpush.scoreboard import COLUMNS, INDEX, PROCESSOR, ROWS, WORKER, Scoreboard

DEATHS = 20_000


def test_a_child_writes_what_the_parent_reads() -> None:
    board = Scoreboard()
    row = board.rows[board.claim(WORKER, 3)]
    pid = os.fork()
    if pid == 0:
        row.add("accepted", 7)
        os._exit(0)
    os.waitpid(pid, 0)
    assert row.get("accepted") == board.total("accepted") == 7
    assert row.get("slot") == 3


def test_counters_outlive_their_process_and_gauges_do_not() -> None:
    board = Scoreboard()
    for _ in range(3):
        number = board.claim(WORKER, 0)
        board.rows[number].add("accepted", 5)
        board.rows[number].set("unsent_bytes", 99)
        board.retire(number)
    assert board.total("accepted") == 15
    assert board.total("unsent_bytes") == 0
    assert list(board.live()) == []


def test_sums_of_a_snapshot_never_go_back() -> None:
    """A scraper would take a step back for a restart, and add all that was ever counted once more."""
    board = Scoreboard()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        last = steps_back = 0
        while last < DEATHS and os.getppid() == parent:
            now = sum(row[INDEX["accepted"]] for row in board.snapshot())
            steps_back += now < last
            last = now
        os._exit(min(steps_back, 100))
    for _ in range(DEATHS):
        number = board.claim(WORKER, 0)
        board.rows[number].add("accepted")
        board.retire(number)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_master_that_stands_still_while_it_counts_does_not_hold_its_readers() -> None:
    board = Scoreboard()
    board.retired.add("folds")
    assert board.snapshot() == [[*board.retired.cells]]


def test_rows_run_out_with_a_word() -> None:
    board = Scoreboard()
    for _ in range(ROWS - 1):
        board.claim(WORKER, 0)
    with pytest.raises(RuntimeError, match="255"):
        board.claim(WORKER, 0)


def test_a_row_is_clean_when_it_is_claimed_again() -> None:
    board = Scoreboard()
    number = board.claim(WORKER, 0)
    board.rows[number].add("sends", 1)
    board.retire(number)
    assert board.claim(PROCESSOR, 1) == number
    assert [name for name in COLUMNS if board.rows[number].get(name)] == ["kind", "slot"]
    assert len(INDEX) == len(COLUMNS), "no column twice"
