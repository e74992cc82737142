"""The scoreboard: rows, sums, and what remains of the dead."""

from __future__ import annotations

import os

import pytest

from zpush.scoreboard import COLUMNS, INDEX, PROCESSOR, ROWS, WORKER, Scoreboard


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
