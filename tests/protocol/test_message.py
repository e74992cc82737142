"""Ids that zpush did not make, and what people read of its numbers."""

from __future__ import annotations

import json

import msgspec
import pytest

from zpush.protocol.message import Kind, Outcome, Priority, made_ms


@pytest.mark.parametrize(
    "id", ["", "order-17", "01" * 11, "01" * 13, "f" * 24, "0" * 24, "01" + "G" * 22, "01" + "٣" * 22, "01" + "A" * 22]
)
def test_an_id_of_somebody_elses_does_not(id: str) -> None:
    assert made_ms(id) == 0


def test_numbers_are_printed_by_their_labels_and_travel_as_numbers() -> None:
    for each, label in ((Outcome.RATE_LIMITED, "rate_limited"), (Priority.HIGH, "high"), (Kind.JSON, "json")):
        assert (str(each), f"{each}", f"{each:>12}", "%s" % each) == (label, label, label.rjust(12), label)  # noqa: UP031
        assert json.loads(json.dumps(each)) == msgspec.json.decode(msgspec.json.encode(each)) == each.value
