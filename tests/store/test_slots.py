"""What a cluster says, read: slots, owners and redirects, also where it says nonsense."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from zpush.errors import Unavailable
from zpush.store import ReplyError
from zpush.store.slots import Owner, Redirect, View, most_credible, read_redirect, read_view, slot_of, slots_of

INFO = b"cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_current_epoch:7\r\n"


@given(st.lists(st.text() | st.binary() | st.from_regex(r"[ab]*\{[ab]*\}?[ab{}]*", fullmatch=True)))
def test_slots_are_the_clusters(keys: list[str | bytes]) -> None:
    slots = [key_slot(key if isinstance(key, bytes) else key.encode()) for key in keys]
    assert slots_of(keys) == slots
    assert [slot_of(key) for key in keys] == slots


def test_owners() -> None:
    reply = [
        [0, 100, [b"10.0.0.1", 7000, b"id", [b"hostname", b"a"]], [b"10.0.0.2", 7001, b"id"]],
        [101, 16383, [None, 7002, b"id"], [b"", 7003, b"id"]],
    ]
    owners = [
        Owner(0, 100, ("10.0.0.1", 7000), (("10.0.0.2", 7001),)),
        Owner(101, 16383, ("asked", 7002), (("asked", 7003),)),
    ]
    assert read_view([reply, INFO], "asked") == View(owners, True, 7)
    assert read_view([[], INFO.replace(b"ok", b"fail")], "asked") == View([], False, 7)


@pytest.mark.parametrize(
    "reply",
    [None, b"OK", [1], [[0, 1]], [[0, 1, []]], [[0, 1, [b"h"]]], [[0, 1, [7, 7]]], [[0, 1, [b"\xff", 7]]],
     [[0, 16384, [b"h", 7]]], [[-1, 5, [b"h", 7]]], [[9, 5, [b"h", 7]]], [[b"0", 5, [b"h", 7]]]],
)  # fmt: skip
def test_nonsense_is_no_map(reply: Any) -> None:
    with pytest.raises(Unavailable):
        read_view([reply, INFO], "asked")


@pytest.mark.parametrize("info", [None, 1, b"", INFO.replace(b"7", b"x"), b"cluster_state"])
def test_nonsense_is_no_state(info: Any) -> None:
    with pytest.raises(Unavailable):
        read_view([[], info], "asked")


def test_an_error_is_passed_on() -> None:
    with pytest.raises(ReplyError, match="NOPERM"):
        read_view([[], ReplyError("NOPERM no")], "asked")


def test_who_is_believed() -> None:
    well_and_old, well_and_new, down = View([], True, 6), View([], True, 7), View([], False, 8)
    assert most_credible([well_and_old, down, well_and_new]) is well_and_new
    assert most_credible([View([], False, 7), down]) is down


@pytest.mark.parametrize(
    ("text", "redirect"),
    [
        ("MOVED 3999 127.0.0.1:6381", Redirect(False, 3999, ("127.0.0.1", 6381))),
        ("ASK 16383 host.example:1", Redirect(True, 16383, ("host.example", 1))),
        ("MOVED 0 ::1:6381", Redirect(False, 0, ("::1", 6381))),
        ("MOVED 0 :6381", Redirect(False, 0, ("asked", 6381))),
        ("MOVED 0 ?:6381", None),
        ("MOVED 0 127.0.0.1:", None),
        ("MOVED 16384 127.0.0.1:1", None),
        ("MOVED x 127.0.0.1:1", None),
        ("MOVED 0", None),
        ("MOVED", None),
        ("ERR no", None),
        ("", None),
    ],
)
def test_redirects(text: str, redirect: Redirect | None) -> None:
    assert read_redirect(ReplyError(text), "asked") == redirect
