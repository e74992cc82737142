"""The close-code table is complete: every code the server counts, and a next step for any other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zpush import scoreboard
from zpush.protocol.close import (
    CLOSE_CODES,
    CUT,
    NO_CODE,
    Next,
    after_close,
    after_refusal,
    close_event_id,
    code_of_event_id,
)


def test_the_table_has_every_code_that_is_counted() -> None:
    assert set(CLOSE_CODES) == set(scoreboard.CLOSE_CODES) - {CUT}


@pytest.mark.parametrize(
    ("code", "then"),
    [
        (1000, Next.AFTER_DELAY),
        (1001, Next.BACKOFF),
        (1002, Next.LONG_BACKOFF),
        (1009, Next.LONG_BACKOFF),
        (1008, Next.TOKEN_FIRST),
        (1011, Next.BACKOFF),
        (1013, Next.LONG_BACKOFF),
        (4001, Next.TOKEN_FIRST),
        (4002, Next.NEVER),
        (4004, Next.BACKOFF),
        (4005, Next.NEVER),
        (4006, Next.TOKEN_FIRST),
        (NO_CODE, Next.BACKOFF),
        (CUT, Next.BACKOFF),
        (4999, Next.BACKOFF),
    ],
)
def test_what_the_client_does_next(code: int, then: Next) -> None:
    assert after_close(code) is then


@pytest.mark.parametrize("code", CLOSE_CODES)
def test_a_code_may_stand_in_a_close_frame(code: int) -> None:
    assert code not in (1004, 1005, 1006, 1015)  # RFC 6455 §7.4.1
    assert CLOSE_CODES[code].code == code and CLOSE_CODES[code].meaning


@pytest.mark.parametrize(
    ("status", "then"),
    [(204, Next.NEVER), (400, Next.NEVER), (401, Next.TOKEN_FIRST), (404, Next.NEVER), (426, Next.NEVER),
     (431, Next.NEVER), (429, Next.LONG_BACKOFF), (408, Next.LONG_BACKOFF),
     (502, Next.BACKOFF), (503, Next.LONG_BACKOFF), (301, Next.BACKOFF)],
)  # fmt: skip
def test_what_the_client_does_after_a_refusal(status: int, then: Next) -> None:
    assert after_refusal(status) is then


@pytest.mark.parametrize("code", CLOSE_CODES)
def test_an_event_streams_close_event_is_known_again(code: int) -> None:
    assert close_event_id(code) == f"zpush:close:{code}"  # the engine writes it in C
    assert code_of_event_id(close_event_id(code)) == code


@pytest.mark.parametrize(
    "event_id", ["", "4002", "zpush:close:", "zpush:close:x002", "zpush:close:40022", "zpush:close:٤٠٠٢"]
)
def test_any_other_event_id_has_no_code(event_id: str) -> None:
    assert code_of_event_id(event_id) is None


def test_the_documented_table_is_this_one() -> None:
    text = (Path(__file__).parents[2] / "docs" / "handshake.md").read_text()
    rows = re.findall(r"^\| (\d{4}) \| (.+) \| (.+) \|$", text, re.MULTILINE)
    assert rows == [(str(row.code), row.meaning, row.then.value) for row in CLOSE_CODES.values()]
