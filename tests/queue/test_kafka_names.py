"""Which topics a processor reads: its own, and with mirrored copies of them under one cluster's name."""

from __future__ import annotations

import pytest

from zpush.protocol.message import Priority
from zpush.queue.kafka_names import is_read, subscription

MIRRORED = {
    "a.b.high": True,
    "us.a.b.high": True,
    "eu-1_x.a.b.high": True,
    "us.eu.a.b.high": False,  # a copy of a copy
    ".a.b.high": False,
    "a-b.high": False,  # a dot is a dot
    "us.axb.high": False,
    "us.a.b-high": False,
    "xa.b.high": False,
    "a.b.highest": False,
    "a.b.high.dead": False,
    "a.b.low": False,
    "us.a.b.dead": False,
}


@pytest.mark.parametrize(("topic", "read"), MIRRORED.items())
def test_a_pattern_names_copies_and_nothing_else(topic: str, read: bool) -> None:
    pattern = subscription("a.b", Priority.HIGH, mirrored=True)
    assert is_read(pattern, topic) is read


@pytest.mark.parametrize("topic", MIRRORED)
def test_where_nothing_is_mirrored_only_the_own_topic_is_read(topic: str) -> None:
    assert is_read(subscription("a.b", Priority.HIGH, mirrored=False), topic) is (topic == "a.b.high")
