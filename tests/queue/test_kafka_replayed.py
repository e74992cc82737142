"""What was replayed of a partition, against a set of offsets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zpush.queue import kafka_note
from zpush.queue.kafka_note import Note
from zpush.queue.kafka_replayed import Replayed

OFFSETS = st.integers(0, 60)


@given(st.lists(OFFSETS, max_size=40), st.integers(0, 5))
def test_it_remembers_each_and_nothing_else(added: list[int], oldest: int) -> None:
    replayed, known = Replayed(Note(0), 0, oldest), set(range(oldest))
    for offset in added:
        replayed.add(offset)
        known.add(offset)
        again = Replayed(kafka_note.decode(replayed.note(), replayed.offset), replayed.offset, oldest)
        for each in (replayed, again):
            assert {o for o in range(70) if o in each} == known
            assert each.left(61) == len(set(range(61)) - known)
            assert each.offset == min(set(range(70)) - known)


def test_what_does_not_exist_is_no_gap() -> None:
    """Offsets of a transaction's marks, and of what retention deleted."""
    replayed = Replayed(Note(0), 0, 0)
    for offset in (0, 2, 4):
        replayed.begin_at(offset)
        replayed.add(offset)
    assert (replayed.offset, replayed.note()) == (5, "zpush:0:")


def test_stretches_that_meet_are_one() -> None:
    replayed = Replayed(Note(0), 0, 0)
    for offset in (10, 12, 11, 14, 13):
        replayed.add(offset)
    assert replayed.note() == "zpush:0:10+5,"


def test_nothing_was_committed() -> None:
    assert Replayed(kafka_note.decode(None, -1001), -1001, 7).offset == 7


@given(st.lists(st.tuples(st.integers(0, 10**17), st.integers(0, 10**17)), max_size=8))
def test_a_strangers_note_is_no_harm(runs: list[tuple[int, int]]) -> None:
    text = "zpush:0:" + "".join(f"{gap}+{run}," for gap, run in runs)
    replayed = Replayed(kafka_note.decode(text, 3), 3, 0)
    assert replayed.left(100) <= 97
    replayed.add(50)
    assert 50 in replayed


def test_more_gaps_than_a_note_holds_are_forgotten_from_the_end() -> None:
    replayed = Replayed(Note(0), 0, 0)
    for offset in range(1, 4000, 2):
        replayed.add(offset)
    again = Replayed(kafka_note.decode(replayed.note(), 0), 0, 0)
    assert 1 in again and 3999 not in again
