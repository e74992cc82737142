"""MirrorMaker's sample files: which topics each copies, and from where. tests/road/test_regions.py runs them."""

from __future__ import annotations

import re

import pytest

from tests.kafka.mirror import SAMPLES
from tests.kafka.regions import NAMES
from zpush import config
from zpush.protocol.message import Priority
from zpush.queue import kafka_names
from zpush.queue.kafka_topics import wanted

MESSAGES = {kafka_names.topic("zpush", priority) for priority in Priority}
EVERY = {topic.name for topic in wanted(config.load(None, {}, ["queue.receipts=true", "queue.presence=true"]).queue)}


@pytest.fixture(params=NAMES)
def region(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def properties(region: str) -> dict[str, str]:
    """As Java reads them, as far as these files go: a backslash takes the next character as it is."""
    lines = (SAMPLES / f"{region}.properties").read_text().splitlines()
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    assert len({key for key, _, _ in pairs}) == len(pairs), "none twice"
    return {key: re.sub(r"\\(.)", r"\1", value) for key, _, value in pairs}


def test_there_is_one_for_each_region() -> None:
    assert {path.stem for path in SAMPLES.iterdir()} == set(NAMES)


def test_each_region_copies_from_all_others_and_from_nowhere_else(region: str) -> None:
    found = properties(region)
    assert found["clusters"].split(",") == list(NAMES)
    assert {key for key in found if "->" in key} == {
        f"{other}->{region}.{what}" for other in NAMES if other != region for what in ("enabled", "topics")
    }
    assert {found[f"{other}->{region}.enabled"] for other in NAMES if other != region} == {"true"}


def test_messages_are_copied_and_nothing_else_is(region: str) -> None:
    """No dead letters, receipts or presence; no copy, nor what only looks like a message's topic."""
    found = properties(region)
    copies = {f"{name}.{topic}" for name in NAMES for topic in EVERY}
    alike = {"zpush-high", "zpush.highest", "zpush.high.dead", "xzpush.low"}
    for pattern in (value for key, value in found.items() if key.endswith(".topics")):
        assert {name for name in EVERY | copies | alike if re.fullmatch(pattern, name)} == MESSAGES


def test_what_is_another_regions_own_stays_there(region: str) -> None:
    """Groups, rights, heartbeats: and MirrorMaker writes its books where it runs."""
    found = properties(region)
    own = ("emit.heartbeats", "emit.checkpoints", "sync.group.offsets", "refresh.groups", "sync.topic.acls")
    assert {found[f"{each}.enabled"] for each in own} == {"false"}
    assert found["offset-syncs.topic.location"] == "target"
