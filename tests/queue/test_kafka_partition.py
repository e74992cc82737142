"""What is committed of a partition, and what the next reader makes of it: nothing is lost, all repetition marked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpush.queue import kafka_note
from zpush.queue.kafka_note import MAX_LOOKED_AT, MAX_NOTE_BYTES, Note, decode, encode, gaps
from zpush.queue.kafka_partition import LEAST_AHEAD, Commit, Partition, Tenure

KEY = ("zpush.high", 3)
OFFSETS = st.lists(st.integers(0, 10**6), unique=True, max_size=40).map(sorted)


@given(OFFSETS, st.integers(0, 10**9), st.integers(0, 10**6))
def test_a_note_comes_back_as_it_went(bounds: list[int], offset: int, ahead: int) -> None:
    finished = tuple(range(offset + one, offset + other) for one, other in list(pairwise(bounds))[::2])
    note = Note(offset + ahead, finished)
    assert decode(encode(offset, note.taken, note.finished), offset) == note


@given(st.integers(0, 2**62), st.lists(st.integers(1, 10**9), max_size=2000))
def test_a_note_has_a_bound_and_what_is_left_out_is_unfinished(offset: int, lengths: list[int]) -> None:
    finished, at = [], offset
    for length in lengths:
        finished.append(range(at + length, at + 2 * length))
        at += 2 * length
    text = encode(offset, at, finished)
    assert len(text) <= MAX_NOTE_BYTES
    found = decode(text, offset).finished
    assert list(found) == finished[: len(found)]
    assert len(found) == len(finished) or len(text) > MAX_NOTE_BYTES - 40


@given(st.one_of(st.none(), st.text(), st.from_regex(r"zpush:\d*:[0-9+,]*")), st.integers(0, 2**62))
def test_anybodys_metadata_is_a_note_or_none(text: str | None, offset: int) -> None:
    note = decode(text, offset)
    assert note.taken >= offset
    assert all(one.stop <= other.start for one, other in pairwise([range(offset, offset), *note.finished]))


@given(st.sets(st.integers(0, 300)), st.integers(301, 400))
def test_gaps_are_what_is_not_unfinished(unfinished: set[int], end: int) -> None:
    first = min(unfinished, default=end)
    found = [offset for gap in gaps(sorted(unfinished), end) for offset in gap]
    assert found == [offset for offset in range(first, end) if offset not in unfinished]


def test_gaps_stop_where_they_stop_looking() -> None:
    unfinished = range(0, 4 * MAX_LOOKED_AT, 2)
    found = gaps(unfinished, 4 * MAX_LOOKED_AT)
    assert [each.start for each in found] == list(range(1, 2 * MAX_LOOKED_AT, 2))
    assert all(len(each) == 1 for each in found)


def partition_at(commit: Commit | None, end: int) -> Partition:
    """As a reader gets it that finds this commit."""
    if commit is None:
        return Partition(Tenure(KEY, 0, Note(0), end), 3)
    return Partition(Tenure(KEY, commit.offset, kafka_note.decode(commit.note, commit.offset), end), 3)


def hand_out(partition: Partition, offsets: Iterable[int]) -> list[tuple[int, object]]:
    """Those that are wanted and announced, with their records."""
    out = []
    for offset in offsets:
        assert not partition.is_behind(offset), "records of one log, in order"
        if not partition.may_hand_out(offset):
            break
        if partition.wants(offset):
            partition.hand_out(offset, record := object())
            out.append((offset, record))
        else:
            partition.pass_over(offset)
    return out


def announced(partition: Partition) -> Commit:
    commit = partition.commit()
    assert commit is not None
    partition.committed(commit)
    return commit


def test_nothing_is_handed_out_before_it_is_announced() -> None:
    partition = partition_at(None, 10)
    assert hand_out(partition, range(10)) == []
    announced(partition)
    assert len(hand_out(partition, range(10))) == 10
    assert len(hand_out(partition, range(10, 10**6))) == LEAST_AHEAD - 10
    assert partition.needs_announcement
    announced(partition)
    assert len(hand_out(partition, range(LEAST_AHEAD, 10**6))) == 4 * LEAST_AHEAD, "four times what it was since"


def test_an_announcement_is_asked_for_when_half_of_the_least_is_left() -> None:
    partition = partition_at(None, 10**6)
    announced(partition)
    hand_out(partition, range(LEAST_AHEAD // 2))
    assert not partition.needs_announcement
    hand_out(partition, [LEAST_AHEAD // 2])
    assert partition.needs_announcement


def test_a_gap_wider_than_what_is_announced_is_crossed() -> None:
    partition = partition_at(None, 10**6)
    announced(partition)
    [(offset, record)] = hand_out(partition, [0])
    assert not partition.may_hand_out(50_000)
    assert partition.reach(50_000) == range(1, 50_000)
    assert partition.needs_announcement
    commit = announced(partition)
    assert commit.offset == 0, "one is unfinished in front of it"
    assert decode(commit.note, 0) == Note(50_000 + LEAST_AHEAD, (range(1, 50_000),)), "reserved as if it were not there"
    assert len(hand_out(partition, range(50_000, 10**6))) == LEAST_AHEAD
    assert partition.finish(offset, record)


def test_an_idle_partition_has_nothing_to_commit() -> None:
    partition = partition_at(None, 10)
    announced(partition)
    assert partition.commit() is None
    [(offset, record)] = hand_out(partition, [0])
    assert partition.commit() is None, "nothing is finished"
    assert partition.finish(offset, record)
    announced(partition)
    assert partition.commit() is None


def test_a_suspended_partition_has_to_be_announced_anew() -> None:
    partition = partition_at(None, 10)
    announced(partition)
    hand_out(partition, [0, 1])
    partition.suspend()
    assert hand_out(partition, [2]) == []
    announced(partition)
    assert len(hand_out(partition, [2])) == 1


def test_only_the_unfinished_is_redelivered_and_only_what_existed() -> None:
    partition = partition_at(None, 100)
    announced(partition)
    records = dict(hand_out(partition, range(100)))
    for offset in set(range(100)) - {10, 50, 51, 99}:
        assert partition.finish(offset, records[offset])
        assert not partition.finish(offset, records[offset]), "once"
    commit = announced(partition)
    assert commit.offset == 10
    after = partition_at(commit, 120)
    announced(after)
    assert [offset for offset, _ in hand_out(after, range(10, 200))] == [10, 50, 51, 99, *range(100, 200)]
    assert after.mark == 120, "announced as far, but nobody can have had what came later"
    assert not after.finish(10, records[10]), "a record of another tenure"


def test_what_an_earlier_reader_has_finished_may_come_by_after_a_commit() -> None:
    """Between two batches: the buffer goes on with a record that the commit counts as finished already."""
    partition = Partition(Tenure(KEY, 10, Note(30, (range(11, 13), range(14, 15))), 30), 3)
    announced(partition)
    [(_, record)] = hand_out(partition, [10])
    assert partition.finish(10, record)
    assert announced(partition).offset == 13
    assert [offset for offset, _ in hand_out(partition, range(11, 16))] == [13, 15]


def test_an_orderly_end_says_how_far_it_went() -> None:
    partition = partition_at(None, 100)
    announced(partition)
    records = hand_out(partition, range(40))
    for offset, record in records[:39]:
        partition.finish(offset, record)
    after = partition_at(partition.last_commit(), 100)
    assert after.mark == 40


def test_what_a_reader_has_not_come_to_stays_marked_for_the_next() -> None:
    partition = partition_at(None, 20)
    crashed = announced(partition)
    hand_out(partition, range(5))
    for commit in (announced(partition_at(crashed, 20)), partition_at(crashed, 20).last_commit()):
        assert partition_at(commit, 20).mark == 20


TOO_LONG = "zpush:1:" + "1+1," * 999


@pytest.mark.parametrize("text", ["", None, "somebody's", "zpush:1:5+", "zpush:-1:", "zpush:1:1+1", TOO_LONG])
def test_foreign_metadata_is_as_good_as_none(text: str | None) -> None:
    assert decode(text, 7) == Note(7)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 30)),
        st.tuples(st.just("finish"), st.lists(st.integers(0, 50), max_size=10)),
        st.tuples(st.just("commit"), st.booleans()),  # whether it is answered
        st.tuples(st.just("grow"), st.integers(1, 30)),
        st.tuples(st.just("crash"), st.none()),
        st.tuples(st.just("leave"), st.none()),
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_happens_nothing_is_lost_and_every_repetition_says_so(steps: list[tuple[str, object]]) -> None:
    """A log that grows, read by one reader after the other; those that crash leave what they committed."""
    stored: Commit | None = None
    end, position = 20, 0
    partition = partition_at(None, end)
    out: dict[int, object] = {}
    finished: set[int] = set()
    known: set[int] = set()  # finished, as far as this reader knows
    safe: set[int] = set()  # finished, and committed as such
    unmarked: Counter[int] = Counter()

    def restart() -> None:
        nonlocal partition, position, out, known
        known = set(safe)
        partition = partition_at(stored, end)
        position = stored.offset if stored else 0
        out = {}

    for step, argument in [*steps, ("crash", None)]:
        if step == "take":
            stop = min(end, position + int(str(argument)))
            for offset, record in hand_out(partition, range(position, stop)):
                assert offset not in safe, "finished before, and committed"
                unmarked[offset] += offset >= partition.mark
                out[offset] = record
            position = next((o for o in range(position, stop) if not partition.may_hand_out(o)), stop)
        elif step == "finish":
            assert isinstance(argument, list)
            for offset in [o for i, o in enumerate(sorted(out)) if i in argument]:
                assert partition.finish(offset, out.pop(offset))
                finished.add(offset)
                known.add(offset)
        elif step == "commit":
            commit = partition.commit()
            if commit is not None:
                stored, safe = commit, set(known)
                if argument:
                    partition.committed(commit)
        elif step == "grow":
            end += int(str(argument))
        elif step == "leave":
            stored, safe = partition.last_commit(), set(known)
            restart()
        else:
            restart()
    assert max(unmarked.values(), default=0) <= 1
    announced(partition)
    rest = {offset for offset, _ in hand_out(partition, range(position, end))}
    assert finished | rest == set(range(end)), "each is finished, or read again"
    assert not rest & safe
