"""A receipt's bounds."""

from __future__ import annotations

import json

from zpush.protocol.message import MAX_ID_BYTES, Outcome
from zpush.queue.receipt import MAX_MS, MAX_RECEIPT_BYTES, Receipt, decode, encode


def test_the_largest_is_read_back() -> None:
    for letter in ('"', "\\", "é", "x"):
        id = letter * (MAX_ID_BYTES // len(letter.encode()))
        largest = Receipt(
            id=id,
            priority="normal",
            region="r" * 64,
            queued_ms=MAX_MS,
            settled_ms=MAX_MS,
            outcome="rate_limited",
            client=id,
            user=id,
            node="n" * 64,
            redelivered=True,
            counts={outcome.label: 2**53 for outcome in Outcome},
        )
        content = encode(largest)
        assert len(content) < MAX_RECEIPT_BYTES
        assert decode(content) == largest


def test_what_is_empty_is_left_out() -> None:
    small = Receipt("m1", "high", "eu", 1, 2, "delivered", "c1")
    assert json.loads(encode(small)) == {
        "id": "m1",
        "priority": "high",
        "region": "eu",
        "queued_ms": 1,
        "settled_ms": 2,
        "outcome": "delivered",
        "client": "c1",
    }
